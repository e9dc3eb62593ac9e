"""Parquet and Arrow files, and folders in the layout that `datasets.save_to_disk` writes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from vlp.data.images import open_image
from vlp.data.issues import DataError
from vlp.datasets.table import Table
from vlp.structures import Member

Build = Callable[..., Table]


@pytest.fixture
def pa() -> Any:
    pytest.importorskip("pyarrow", reason="pip install 'vlp[arrow]'")
    import pyarrow.ipc
    import pyarrow.parquet

    return pyarrow


@pytest.fixture
def build(tmp_path: Path, loading: dict[str, Any]) -> Build:
    return lambda **changed: Table(root=tmp_path, **{**loading, "cache": tmp_path / "cache", **changed})


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(picture(number)).save(stream, "PNG")
    return stream.getvalue()


def table(pa: Any, numbers: range, **columns: Any) -> Any:
    """With the images in it, as a Hugging Face feature, and class labels; of number 1 only the path is known."""
    images = [{"bytes": png(n), "path": f"{n}.png"} if n != 1 else {"bytes": None, "path": "1.png"} for n in numbers]
    content = {
        "image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "caption": [f"photo {n}" for n in numbers],
        "label": pa.array([n % 2 for n in numbers], pa.int64()),
        **columns,
    }
    features = {"image": {"_type": "Image"}, "label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}
    return pa.table(content).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def save(pa: Any, folder: Path, rows: Any, *, files: int = 1) -> None:
    """As `save_to_disk` does: Arrow streams and their list."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    share = -(-rows.num_rows // files)
    for number, name in enumerate(names):
        part = rows.slice(number * share, share)
        with pa.ipc.new_stream(str(folder / name), part.schema) as writer:
            writer.write_table(part, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


def check_pixels(data: Table, split: str) -> None:
    for sample in data.split(split):
        number = int(sample.captions[0].split()[-1])
        for source in (sample.image, str(sample.image)):  # also by its text form
            np.testing.assert_array_equal(np.asarray(open_image(source)), picture(number))


def test_a_saved_folder_brings_its_splits_images_and_classes(pa: Any, build: Build, tmp_path: Path) -> None:
    PIL.Image.fromarray(picture(1)).save(tmp_path / "1.png")
    root = tmp_path / "saved"
    for name, numbers, files in (("train", range(5), 2), ("validation", range(5, 7), 1), ("extra", range(7, 9), 1)):
        save(pa, root / name, table(pa, numbers), files=files)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation", "extra"]}))
    data = build(table="saved", label="label")
    with pytest.warns(UserWarning, match="split of another name, 1 left out: extra"):
        assert [len(data.split(split)) for split in ("train", "val", "test")] == [5, 2, 0]
    assert [sample.label for sample in data.split("train")] == [1, 0, 1, 0, 1]
    assert data.class_names == ("cat", "dog")
    assert data.split("train")[1].image == tmp_path / "1.png"
    assert isinstance(data.split("train")[0].image, Member)
    for split in ("train", "val"):
        check_pixels(data, split)
    data.setup("fit")
    assert sum(len(batch.id) for batch in data.train_dataloader()) == 4  # one step of data.batch_size
    one = build(table={"train": "saved/train", "test": "saved/extra"})
    assert (len(one.split("train")), len(one.split("test"))) == (5, 2)


def test_images_of_a_parquet_file_are_unpacked_once(pa: Any, build: Build, tmp_path: Path) -> None:
    rows = table(pa, range(2, 8), split=["train"] * 4 + ["val", "test"])
    pa.parquet.write_table(rows, tmp_path / "t.parquet", row_group_size=3)
    data = build(table="t.parquet")
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [4, 1, 1]
    for split in ("train", "val", "test"):
        check_pixels(data, split)
    (unpacked,) = (tmp_path / "cache").glob("*.arrow")
    before = unpacked.stat().st_mtime_ns
    again = build(table="t.parquet")
    assert again.fingerprint("train") == data.fingerprint("train")
    assert unpacked.stat().st_mtime_ns == before
    elsewhere = build(table="t.parquet", cache=tmp_path / "other")
    assert elsewhere.fingerprint("train") == data.fingerprint("train")
    parts = [rows.slice(0, 2), rows.slice(2, 4)]
    for number, part in enumerate(parts):
        pa.parquet.write_table(part, tmp_path / f"part-{number}.parquet")
    assert len(build(table="part-*.parquet").split("train")) == 4


def test_paths_lists_of_captions_and_plain_bytes(pa: Any, build: Build, tmp_path: Path) -> None:
    for number in range(3):
        PIL.Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    paths = {"image": ["0.png", str(tmp_path / "1.png"), "2.png"], "caption": [["photo 0", "x"], None, ["photo 2"]]}
    pa.parquet.write_table(pa.table({**paths, "split": ["train"] * 3}), tmp_path / "paths.parquet")
    data = build(table="paths.parquet")
    with pytest.warns(UserWarning, match="null caption, 1 left out: .*paths.parquet, row 2"):
        assert [sample.captions for sample in data.split("train")] == [("photo 0", "x"), ("photo 2",)]
    rows = pa.table({"image": [png(4), png(5)], "caption": ["photo 4", "photo 5"]})
    with pa.ipc.new_file(str(tmp_path / "bytes.arrow"), rows.schema) as writer:  # with a footer, as .feather
        writer.write_table(rows)
    data = build(table={"train": "bytes.arrow"})
    check_pixels(data, "train")


def test_faults_are_one_sentence(pa: Any, build: Build, tmp_path: Path) -> None:
    pa.parquet.write_table(table(pa, range(2, 4)), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: no column split \(there is image, caption, label\); name your"):
        build(table="t.parquet").split("train")
    twice = pa.table([pa.array(["a.jpg"]), pa.array(["x"]), pa.array(["y"])], names=["image", "caption", "caption"])
    pa.parquet.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=r"twice\.parquet: 'caption' is the name of several columns"):
        build(table={"train": "twice.parquet"}).split("train")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-50])
    with pytest.raises(DataError, match=r"cut\.parquet: cannot be read .* may be cut off"):
        build(table={"train": "cut.parquet"}).split("train")
    save(pa, tmp_path / "saved", table(pa, range(2, 8)), files=2)
    (file, other) = sorted((tmp_path / "saved").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(DataError, match=r"\.arrow: cannot be read .* may be cut off"):
        build(table={"train": "saved"}).split("train")
    other.unlink()
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"a file that .*state\.json lists is missing"):
        build(table={"train": "saved"}).split("train")
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    rows = pa.table({"image": [bytes(5000)], "caption": ["x"]})
    with pa.ipc.new_file(str(tmp_path / "z.arrow"), rows.schema, options=options) as writer:
        writer.write_table(rows)
    with pytest.raises(DataError, match=r"z\.arrow: its buffers are compressed"):
        build(table={"train": "z.arrow"}).split("train")


def test_without_pyarrow_one_sentence_says_what_to_install(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.ipc", None)
    with pytest.raises(DataError, match=r"t\.parquet: reading it needs pyarrow; run pip install 'vlp\[arrow\]'"):
        build(table={"train": "t.parquet"}).split("train")
