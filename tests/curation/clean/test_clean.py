from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.data.pictures import picture, save_altered
from vlp.curation.clean.clean import clean_data
from vlp.curation.clean.options import CleanOptions
from vlp.curation.clean.report import write_sample_table
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.table import Table
from vlp.structures import Sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train: six photos, copies of two, one that is also in test, and bad files; test: two photos."""
    images = tmp_path / "images"
    images.mkdir()
    for name, seed in {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5, "t1": 20, "t2": 21}.items():
        picture(seed).save(images / f"{name}.jpg", quality=92)
    (images / "a_again.jpg").write_bytes((images / "a.jpg").read_bytes())
    save_altered(PIL.Image.open(images / "b.jpg"), "half size", images / "b_small.jpg")
    save_altered(PIL.Image.open(images / "t1.jpg"), "quality 30", images / "leak.jpg")
    picture(30, (24, 200)).save(images / "tiny.png")
    picture(31, (400, 100)).save(images / "banner.png")
    (images / "bad.jpg").write_bytes(b"nothing")
    PIL.Image.new("RGB", (100, 100), "white").save(images / "white.png")
    PIL.Image.new("RGB", (100, 100), "black").save(images / "black.png")
    return images


def splits(folder: Path) -> dict[str, list[Sample]]:
    captions = {"b_small": ("a dog runs", "a fast dog"), "bad": ("a file",)}
    names = {
        "train": [
            "a",
            "a_again",
            "b",
            "b_small",
            "c",
            "d",
            "e",
            "f",
            "leak",
            "tiny",
            "banner",
            "bad",
            "white",
            "black",
        ],
        "val": [],
        "test": ["t1", "t2"],
    }
    files = {file.stem: file for file in folder.iterdir()}
    return {
        split: [
            Sample(id=n, sample=n, image=files[name], captions=captions.get(name, (f"picture called {name}",)))
            for n, name in enumerate(split_names)
        ]
        for split, split_names in names.items()
    }


def names(samples: list[Sample]) -> list[str]:
    return [sample.image.stem for sample in samples]


def test_images_are_dropped_for_the_right_reasons(folder: Path) -> None:
    kept, report = clean_data(splits(folder))
    assert names(kept["train"]) == ["a", "b", "c", "d", "e", "f", "white", "black"]
    assert names(kept["test"]) == ["t1", "t2"]
    assert {reason: dropped.count for reason, dropped in report.dropped.items()} == {
        "image like another one": 2,
        "image also in test": 1,
        "small image": 1,
        "long, narrow image": 1,
        "unreadable image": 1,
    }
    assert report.before["train"] == {"images": 14, "captions": 15}
    assert report.after["train"] == {"images": 8, "captions": 8}
    assert f"{folder / 'leak.jpg'} = {folder / 't1.jpg'}" in report.dropped["image also in test"].examples[0]


@pytest.mark.parametrize(
    ("option", "stay"),
    [
        ({"min_side": 0}, set()),  # what is too small is narrow, too
        ({"max_aspect": 0.0}, {"banner"}),
        ({"min_side": 0, "max_aspect": 0.0}, {"tiny", "banner"}),
        ({"evaluation": False}, {"leak"}),
        ({"near_duplicates": False}, {"a_again", "b_small"}),
        ({"unreadable": False}, {"bad"}),
    ],
    ids=lambda value: " ".join(map(str, sorted(value))),  # a set has another order in each process
)
def test_each_image_rule_can_be_switched_off(folder: Path, option: dict[str, Any], stay: set[str]) -> None:
    usual = set(names(clean_data(splits(folder))[0]["train"]))
    more = set(names(clean_data(splits(folder), CleanOptions(**option))[0]["train"])) - usual
    assert more == stay


def test_the_copy_with_most_captions_may_stay(folder: Path) -> None:
    kept, _ = clean_data(splits(folder), CleanOptions(most_captions=True))
    assert names(kept["train"]) == ["a", "b_small", "c", "d", "e", "f", "white", "black"]


def test_photos_of_other_evaluation_sets_are_not_trained_on(folder: Path, tmp_path: Path) -> None:
    file = save_altered(PIL.Image.open(folder / "d.jpg"), "brighter", tmp_path / "elsewhere")
    kept, report = clean_data(splits(folder), evaluation={"flickr/test": [Sample(id=8, sample=0, image=file)]})
    assert "d" not in names(kept["train"])
    assert report.dropped["image also in flickr/test"].count == 1
    assert set(kept) == {"train", "val", "test"}


def test_an_image_without_kept_captions_is_dropped(folder: Path) -> None:
    train = splits(folder)["train"]
    train[0] = replace(train[0], captions=("IMG_1234",))
    kept, report = clean_data({"train": train})
    assert names(kept["train"])[0] == "a_again"  # it is no copy of an image that stays
    assert report.dropped["no caption left"].count == 1
    assert report.dropped["file name in the caption"].examples == [f"{train[0].image}: IMG_1234"]


def test_images_with_a_class_are_kept(folder: Path, tmp_path: Path, loading: dict[str, Any]) -> None:
    train = [replace(sample, label=number % 2) for number, sample in enumerate(splits(folder)["train"])]
    train[0] = replace(train[0], captions=("IMG_1234",))
    kept, _ = clean_data({"train": train})
    assert train[0].image in {sample.image for sample in kept["train"]}, "its class is learnt from without a caption"
    write_sample_table(kept, tmp_path / "clean.jsonl", root=tmp_path, class_names=("cat", "dog"))
    table = Table(root=tmp_path, table=str(tmp_path / "clean.jsonl"), caption="captions", label="label", **loading)
    assert [sample.label for sample in table.split("train")] == [sample.label for sample in kept["train"]]
    assert table.class_names == ("cat", "dog")


def test_table_reads_what_was_written(folder: Path, tmp_path: Path, loading: dict[str, Any]) -> None:
    samples = splits(folder)
    samples["val"] = [replace(samples["test"].pop(), captions=("“ein Hund”, \u2028 läuft", "two"))]
    kept, _ = clean_data(samples)
    write_sample_table(kept, tmp_path / "clean.jsonl", root=tmp_path)
    table = Table(root=tmp_path, table=str(tmp_path / "clean.jsonl"), caption="captions", **loading)
    for split in ("train", "val", "test"):
        read = list(table.split(split))
        assert [sample.image for sample in read] == [sample.image for sample in kept[split]]
        assert [sample.captions for sample in read] == [
            tuple(" ".join(c.split()) for c in sample.captions) for sample in kept[split]
        ]
    table.setup("fit")
    assert next(iter(table.train_dataloader())).image is not None


def test_cleaning_keeps_a_data_module_that_is_clean(toy: Callable[..., Karpathy]) -> None:
    data = toy()
    kept, report = clean_data(
        {split: data.split(split) for split in ("train", "val", "test")}, CleanOptions(min_side=0)
    )
    assert report.dropped == {}
    assert report.before == report.after
    assert [s.image for s in kept["train"]] == [s.image for s in data.split("train")]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "clean.jsonl").write_text("before")
    outside = {"train": [Sample(id=0, sample=0, image=Path("/elsewhere/a.jpg"), captions=("a dog",))]}
    with pytest.raises(ValueError, match=r"/elsewhere/a.jpg: is not below"):
        write_sample_table(outside, tmp_path / "clean.jsonl", root=tmp_path)
    assert (tmp_path / "clean.jsonl").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["clean.jsonl"]


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"min_letters=3.0: a share"):
        CleanOptions(min_letters=3.0)
    with pytest.raises(ValueError, match=r"max_aspect=0.5"):
        CleanOptions(max_aspect=0.5)
    with pytest.raises(ValueError, match="no split train"):
        clean_data({"test": []})
    with pytest.raises(ValueError, match="have no captions"):
        clean_data({"train": [Sample(id=0, sample=0, image=Path("a.jpg"))]})
    with pytest.raises(ValueError, match=r"ends in .jsonl"):
        write_sample_table({}, tmp_path / "clean.csv", root=tmp_path)
