"""Flickr30k Entities: phrases in sentences, several boxes of one phrase, things without a box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.image_ids import FLICKR_BASE
from vlp.data.issues import DataError, Faults
from vlp.datasets.flickr30k_entities import Flickr30kEntities

Loading = dict[str, Any]
SENTENCES = [
    "[/EN#1/people Two men] and [/EN#2/animals/other a dog] sit on [/EN#3/scene the grass] .",
    "[/EN#1/people Friends] rest [/EN#0/notvisual that day] with [/EN#1/people each other] .",
    "It is [/EN#3/scene a sunny field] .",
]


def thing(*names: int, box: tuple[int, ...] | None = None) -> str:
    corners = "" if box is None else "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )  # fmt: skip
    rest = f"<bndbox>{corners}</bndbox>" if box is not None else "<scene>1</scene><nobndbox>0</nobndbox>"
    return "<object>" + "".join(f"<name>{name}</name>" for name in names) + rest + "</object>"


def write(root: Path, photo: str = "36979", sentences: list[str] = SENTENCES, things: str | None = None) -> None:
    for name in ("Sentences", "Annotations", "flickr30k-images"):
        (root / name).mkdir(exist_ok=True)
    (root / "Sentences" / f"{photo}.txt").write_text("\n".join(sentences) + "\n")
    default = thing(1, box=(1, 1, 10, 10)) + thing(1, 2, box=(11, 2, 20, 12)) + thing(3)
    size = "<size><width>20</width><height>12</height><depth>3</depth></size>"
    (root / "Annotations" / f"{photo}.xml").write_text(
        f"<annotation><filename>{photo}.jpg</filename>{size}{default if things is None else things}</annotation>"
    )
    PIL.Image.new("RGB", (20, 12)).save(root / "flickr30k-images" / f"{photo}.jpg")


def read(root: Path, loading: Loading) -> Flickr30kEntities:
    return Flickr30kEntities(root=root, splits={"train": "train.txt", "val": None, "test": "test.txt"}, **loading)


def test_each_sentence_has_its_phrases_and_all_boxes_of_each(tmp_path: Path, loading: Loading) -> None:
    write(tmp_path)
    (tmp_path / "test.txt").write_text("36979\n")
    data = read(tmp_path, loading)
    first, second = data.split("test")
    men, dog = [(0, 0, 10, 10), (10, 1, 20, 12)], [(10, 1, 20, 12)]
    assert first.captions == ("Two men", "a dog")
    assert (first.boxes, first.box_captions) == ((*men, *dog), (0, 0, 1))
    assert second.captions == ("Friends", "each other")
    assert (second.boxes, second.box_captions) == ((*men, *men), (0, 0, 1, 1))
    assert first.id == second.id == FLICKR_BASE + 36979
    assert (first.sample, second.sample) == (3697901, 3697902)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert [boxes.label.tolist() for boxes in batch.boxes] == [[0, 0, 1], [0, 0, 1, 1]]


def test_lists_give_the_splits(tmp_path: Path, loading: Loading) -> None:
    for photo in ("1", "2", "3"):
        write(tmp_path, photo)
    (tmp_path / "train.txt").write_text("1\n3\n")
    (tmp_path / "test.txt").write_text("2")
    data = read(tmp_path, loading)
    photos = [[sample.id - FLICKR_BASE for sample in data.split(split)] for split in ("train", "val", "test")]
    assert photos == [[1, 1, 3, 3], [], [2, 2]]


def test_faults_are_counted(tmp_path: Path, loading: Loading) -> None:
    write(
        tmp_path,
        "1",
        ["[/EN#1/people ] and [/EN#1/people a man]"],
        thing(1, box=(5, 5, 1, 1)) + thing(1, box=(1, 1, 2, 2)),
    )
    write(tmp_path, "2", ["[/EN#x/people a man]"])
    write(tmp_path, "3", things="<object>")
    write(tmp_path, "4")
    (tmp_path / "Sentences/4.txt").unlink()
    (tmp_path / "train.txt").write_text("1\n2\n3\n4\n1\n\n../5\n")
    data = read(tmp_path, loading)
    data.faults = Faults(collect=True)
    (only,) = data.samples("train")
    assert (only.captions, only.boxes, only.box_captions) == (("a man",), ((0, 0, 2, 2),), (0,))
    assert {(fault.kind, fault.fatal): fault.count for fault in data.faults.issues.values()} == {
        ("malformed line", True): 1, ("not valid XML", True): 1, ("missing file", True): 1, ("photo listed twice", True): 1,
        ("path outside the root", True): 1, ("box of no area", False): 1, ("empty caption", False): 1,
    }  # fmt: skip
    (tmp_path / "train.txt").write_text("2\n")
    with pytest.raises(DataError, match=r"2\.txt, line 1: a phrase must be written"):
        read(tmp_path, loading).split("train")
