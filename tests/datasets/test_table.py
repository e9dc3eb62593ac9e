from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.splits import pictures, sizes
from vlp.data.issues import Faults
from vlp.datasets.table import Table

Loading = dict[str, Any]


@pytest.fixture
def table(tmp_path: Path, loading: Loading) -> Callable[..., Table]:
    def build(text: str, name: str = "t.csv", **changed: Any) -> Table:
        pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
        (tmp_path / name).write_text(text)
        return Table(**{"root": tmp_path, "table": name, **loading, **changed})

    return build


def test_other_data_of_the_same_size_are_not_gone_on_with(table: Callable[..., Table], tmp_path: Path) -> None:
    text = "image,caption,split\na.jpg,one,train\nb.jpg,two,train\n"
    states = []
    for name, written in (("t.csv", text), ("u.csv", text), ("v.csv", text.replace("two", "three"))):
        data = table(written, name, batch_size=2)
        data.setup("fit")
        states.append(data.state_dict())
        if written == text:
            data.load_state_dict(states[0])
    with pytest.raises(ValueError, match="holds other files, captions or answers than the run was trained on"):
        data.load_state_dict(states[0])


def test_columns_may_be_parted_by_tabs(table: Callable[..., Table]) -> None:
    data = table("image\tcaption\tsplit\na.jpg\tone, two\ttrain\n", "t.TSV")
    assert data.split("train")[0].captions == ("one, two",)


def test_an_empty_label_is_none(table: Callable[..., Table]) -> None:
    data = table("image,caption,split,kind\na.jpg,x,train,cat\nb.jpg,y,train,\n", label="kind")
    with pytest.raises(ValueError, match="line 3: no value for kind"):
        data.split("train")


def test_csv_rows_of_an_image_are_joined(table: Callable[..., Table]) -> None:
    data = table('image,caption,split\na.jpg,"x, y",train\na.jpg,z,train\nb.jpg,w,val\nc.jpg,v,test\n')
    assert sizes(data) == (1, 1, 1)
    assert data.split("train")[0].captions == ("x, y", "z")


def test_jsonl_with_own_columns_and_classes(table: Callable[..., Table]) -> None:
    lines = [
        {"file": "a.jpg", "texts": ["x", "y"], "kind": "dog"},
        {"file": "b.jpg", "texts": ["z"], "kind": "cat"},
    ]
    text = "\n".join(map(json.dumps, lines))
    data = table(text, "t.jsonl", table={"test": "t.jsonl"}, image="file", caption="texts", label="kind")
    assert sizes(data) == (0, 0, 2)
    assert data.class_names == ("cat", "dog")
    assert [(s.captions, s.label) for s in data.split("test")] == [(("x", "y"), 1), (("z",), 0)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "t.csv",
            "image,text,split\na.jpg,x,train\n",
            r"t.csv, line 2: no value for caption \(there is image, text, split\)",
        ),
        ("t.csv", "image,caption\na.jpg,x\n", "line 2: no value for split"),
        (
            "t.csv",
            "image,caption,split\na.jpg,x,train\nb.jpg,x,dev\n",
            "line 3: 'dev' is no split; use train, val, test",
        ),
        ("t.csv", "image,caption,split\na.jpg,x,y,train\n", "line 2: more values than columns"),
        ("t.csv", "image,caption,split\na.jpg,x,train\na.jpg,x,test\n", "1 images are in train and in test: a.jpg"),
        ("t.csv", "image,caption,split\n../a.jpg,x,train\n", "line 2: the path '../a.jpg' leads out"),
        ("t.csv", "image,caption,split\na.jpg,  ,test\n", "line 2: empty caption in evaluation data"),
        (
            "t.jsonl",
            '{"image": "a.jpg", "caption": "x", "split": "train"}\n{"image"',
            "t.jsonl, line 2: not valid JSON",
        ),
        ("t.jsonl", "[1]", "t.jsonl, line 1: expected an object"),
        ("t.jsonl", '{"image": "a.jpg", "caption": 7, "split": "train"}', "line 1: a caption must be a text, not int"),
        ("t.xls", "x", "a table is a \\.csv, \\.tsv, \\.json, \\.jsonl"),
        (
            "t.csv",
            "image,caption,split\n./img/1.jpg,a dog,train\nimg//1.jpg,a dog,test\n",
            "1 images are in train and in test: img/1.jpg",
        ),
    ],
)
def test_table_errors_tell_file_and_line(table: Callable[..., Table], name: str, text: str, message: str) -> None:
    data = table(text, name)
    with pytest.raises(ValueError, match=message):
        [data.split(split) for split in ("train", "test")]


def test_a_row_that_a_stray_quote_has_swallowed_is_reported(table: Callable[..., Table]) -> None:
    text = 'image,caption,split\na.jpg,"big dog,train\nb.jpg,cat",train\nc.jpg,plain,train\n'
    with pytest.raises(ValueError, match=r"t\.csv, line 2: the quote that opens here closes on line 3"):
        table(text).split("train")
    data = table(text)
    data.faults = Faults(collect=True)
    assert [sample.image.name for sample in data.samples("train")] == ["b.jpg", "c.jpg"]
    (finding,) = data.faults.issues.values()
    assert (finding.kind, finding.fatal, finding.count) == ("malformed line", True, 1)


ROWS = [{"image": "a.jpg", "caption": "x", "split": "train"}, {"image": "b.jpg", "caption": "y", "split": "val"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv.gz", gzip.compress(b"image,caption,split\na.jpg,x,train\nb.jpg,y,val\n", mtime=0)),
        ("t.tsv.gz", gzip.compress(b"image\tcaption\tsplit\na.jpg\tx\ttrain\nb.jpg\ty\tval\n", mtime=0)),
        ("t.jsonl.gz", gzip.compress("\n".join(map(json.dumps, ROWS)).encode(), mtime=0)),
        ("t.json", json.dumps(ROWS).encode()),
        ("t.JSON", json.dumps({"annotations": ROWS}).encode()),
        ("t.csv", b"\xef\xbb\xbfimage,caption,split\r\na.jpg,x,train\r\nb.jpg,y,val\r\n"),
    ],
)
def test_formats_of_text(table: Callable[..., Table], tmp_path: Path, name: str, content: bytes) -> None:
    data = table("", name)
    (tmp_path / name).write_bytes(content)
    assert sizes(data) == (1, 1, 0)
    assert (data.split("train")[0].captions, data.split("val")[0].captions) == (("x",), ("y",))
    if name.endswith(".gz"):  # also under the name without it
        (tmp_path / name.removesuffix(".gz")).unlink(missing_ok=True)
        assert sizes(table("", "other.csv", table=name.removesuffix(".gz"))) == (1, 1, 0)


def test_several_files_of_one_pattern(table: Callable[..., Table], tmp_path: Path) -> None:
    for number, image in enumerate(("a.jpg", "b.jpg")):
        (tmp_path / f"part-{number}.csv").write_text(f"image,caption\n{image},x\n")
    assert sizes(table("", "t.csv", table={"train": "part-*.csv"})) == (2, 0, 0)
    with pytest.raises(ValueError, match="no table is called none-"):
        table("", "t.csv", table={"train": "none-*.csv"}).split("train")
    with pytest.raises(ValueError, match=r"data\.table\.validation: there is no such split"):
        table("", "t.csv", table={"validation": "t.csv"})


def test_absolute_paths_inside_the_root_are_the_same_images(table: Callable[..., Table], tmp_path: Path) -> None:
    rows = [f"{tmp_path}/a.jpg,x,train", "a.jpg,y,train", f"{tmp_path}/sub/../b.jpg,z,val"]
    text = "\n".join(["image,caption,split", *rows[:2]])
    (sample,) = table(text).split("train")
    assert (sample.image, sample.captions) == (tmp_path / "a.jpg", ("x", "y"))
    with pytest.raises(ValueError, match=r"line 4: the path .* leads out"):
        table("\n".join([text, rows[2]])).split("val")
    with pytest.raises(ValueError, match=r"line 4: the path '/etc/passwd' leads out"):
        table("\n".join([text, "/etc/passwd,x,val"])).split("val")
    with pytest.raises(ValueError, match="1 images are in train and in val"):
        table("\n".join([text, f"{tmp_path}/a.jpg,x,val"])).split("val")
    os.symlink(tmp_path, tmp_path.parent / f"{tmp_path.name}-alias")  # the root under another name
    alias = tmp_path.parent / f"{tmp_path.name}-alias"
    assert table(text, root=alias).split("train")[0].image == alias / "a.jpg"
    pictures(tmp_path, "photos/d.jpg")
    text = f"image,caption,split\n{tmp_path}/photos/d.jpg,x,train\nd.jpg,y,train\n{tmp_path}/a.jpg,z,train\n"
    first, second = table(text, images="photos").split("train")
    assert (first.image, first.captions) == (tmp_path / "photos/d.jpg", ("x", "y"))
    assert second.image == tmp_path / "a.jpg"


@pytest.mark.parametrize("null", ["null", "NaN", '["y", null]', "[null]"])
def test_a_null_caption_is_counted_in_training_and_an_error_in_evaluation(
    table: Callable[..., Table], null: str
) -> None:
    text = f'{{"image": "a.jpg", "caption": "x", "split": "train"}}\n{{"image": "b.jpg", "caption": {null}, "split": "train"}}'
    with pytest.warns(UserWarning, match=r"null caption, 1 left out: .*line 2"):
        found = [sample.captions for sample in table(text, "t.jsonl").split("train")]
    assert found == [("x",), ("y",)][: 1 + ("y" in null)]
    with pytest.raises(ValueError, match="line 1: null caption in evaluation data would change the metric"):
        table(text.replace("train", "test").partition("\n")[2], "t.jsonl").split("test")


def test_a_row_without_the_key_is_still_an_error(table: Callable[..., Table]) -> None:
    with pytest.raises(ValueError, match="line 1: no value for caption"):
        table('{"image": "a.jpg", "text": "x", "split": "train"}', "t.jsonl").split("train")


def test_labels_that_look_equal_are_one_class(table: Callable[..., Table]) -> None:
    rows = "a.jpg,caf\u00e9,train\nb.jpg,  cafe\u0301 ,test\nc.jpg,Caf\u00e9,test\n"
    data = table(f"image,kind,split\n{rows}", caption=None, label="kind")
    with pytest.warns(UserWarning, match="1 names stand for several classes"):
        assert [sample.label for sample in data.split("test")] == [1, 0]
    assert data.class_names == ("Caf\u00e9", "caf\u00e9")


def test_the_case_of_a_suffix_does_not_matter(table: Callable[..., Table], tmp_path: Path) -> None:
    text = "image,caption,split\na.jpg,one,train\n"
    data = table(text, "plain.csv")
    (tmp_path / "T.CSV.GZ").write_bytes(gzip.compress(text.encode()))
    data.files = "T.CSV.GZ"
    assert sizes(data) == (1, 0, 0)


def test_a_table_without_rows_is_refused_before_training(table: Callable[..., Table]) -> None:
    with pytest.raises(ValueError, match="the training split has no sample"):
        table("image,caption,split\n").setup("fit")
