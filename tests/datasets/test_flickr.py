from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.datasets.splits import pictures, sizes
from vlp.data.image_ids import FLICKR_BASE, flickr_image_id
from vlp.data.issues import Faults
from vlp.datasets.flickr import Flickr, read_captions
from vlp.datasets.karpathy import Karpathy

Loading = dict[str, Any]


def flickr(root: Path, loading: Loading, **changed: Any) -> Flickr:
    splits = {
        split: f"Flickr_8k.{name}Images.txt" for split, name in (("train", "train"), ("val", "dev"), ("test", "test"))
    }
    return Flickr(
        root=root, **{"captions_file": "Flickr8k.token.txt", "images": "Images", "splits": splits, **loading, **changed}
    )


def test_flickr8k_of_the_official_files_equals_that_of_karpathy(shared: Path, loading: Loading) -> None:
    root = shared / "data/flickr8k"
    official = flickr(root, loading)
    assert sizes(official) == (6000, 1000, 1000)
    other = Karpathy(root=root, annotations="dataset_flickr8k.json", images="Images", **loading)
    for split in ("val", "test"):
        assert {s.image: s.id for s in official.split(split)} == {s.image: s.id for s in other.split(split)}
        captions = [{s.image: set(s.captions) for s in data.split(split)} for data in (official, other)]
        assert captions[0] == captions[1]


def test_flickr30k_split_lists_without_file_endings(shared: Path, loading: Loading, tmp_path: Path) -> None:
    lists = shared / "data/text-assets/flickr30k-splits"
    names = [line for split in ("train", "val", "test") for line in (lists / f"{split}.txt").read_text().split()]
    (tmp_path / "t.token").write_text("".join(f"{name}.jpg#0\tA {name} .\n" for name in names))
    (tmp_path / "images").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text((lists / f"{split}.txt").read_text())
    data = flickr(
        tmp_path, loading, captions_file="t.token", images="images",
        splits={split: f"{split}.txt" for split in ("train", "val", "test")},
    )  # fmt: skip
    samples = {split: data.samples(split) for split in ("train", "val", "test")}
    assert [len(found) for found in samples.values()] == [29783, 1000, 1000]
    ids = {sample.image.stem: sample.id for found in samples.values() for sample in found}
    assert ids == {name: FLICKR_BASE + int(name) for name in names}
    assert len(set(ids.values())) == 31783, "each a photo of its own"


def test_photos_of_flickr_have_the_same_number_in_all_data_sets(shared: Path) -> None:
    lists = shared / "data/text-assets/flickr30k-splits"
    thirty = {
        flickr_image_id(f"{n}.jpg")
        for split in ("train", "val", "test")
        for n in (lists / f"{split}.txt").read_text().split()
    }
    eight = {flickr_image_id(path.name) for path in (shared / "data/flickr8k/Images").glob("*.jpg")}
    assert len(eight) == 8000
    assert eight <= thirty, "Flickr8k is a part of Flickr30k"


def test_captions_of_an_image_that_does_not_exist(tmp_path: Path, loading: Loading) -> None:
    """Flickr8k.token.txt has five of 2258277193_586949ec62.jpg.1, which is in no list."""
    pictures(tmp_path / "Images", "1_693b08cb0e.jpg")
    lines = ["1_693b08cb0e.jpg#0\tx", *(f"2258277193_586949ec62.jpg.1#{i}\ty" for i in range(5))]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines))
    for split in ("train", "dev", "test"):
        (tmp_path / f"Flickr_8k.{split}Images.txt").write_text("1_693b08cb0e.jpg\n" if split == "train" else "")
    data = flickr(tmp_path, loading)
    assert sizes(data) == (1, 0, 0)
    data = flickr(tmp_path, loading)
    data.faults = Faults(collect=True)
    data.samples("train")
    (finding,) = data.faults.issues.values()
    assert (finding.kind, finding.fatal, finding.count) == ("image in no split", False, 1)
    assert "2258277193_586949ec62.jpg.1" in finding.examples[0]


def test_caption_files_with_tabs_commas_and_header(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    expected = {"a.jpg": ["A dog, running .", 'He says "no" .'], "b.jpg": ["x"]}
    path.write_text('a.jpg#0\tA dog, running .\na.jpg#1\tHe says "no" .\n\nb.jpg#0\tx\n')
    assert read_captions(path) == expected
    path.write_text('image,caption\na.jpg,"A dog, running ."\na.jpg,"He says ""no"" ."\r\nb.jpg,x\n')
    assert read_captions(path) == expected
    path.write_text("a.jpg,A dog, running .\n")
    assert read_captions(path) == {"a.jpg": ["A dog, running ."]}
    path.write_text("a.jpg#0\tx\na.jpg\n")
    with pytest.raises(ValueError, match=r"c.txt, line 2: expected a file name"):
        read_captions(path)


def test_flickr_lists_with_faults(tmp_path: Path, loading: Loading) -> None:
    pictures(tmp_path / "Images", "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "Flickr8k.token.txt").write_text("a.jpg#0\tx\nb.jpg#0\ty\nc.jpg#0\tz\nghost.jpg.1#0\tz\n")
    for split, names in (("train", "a.jpg"), ("dev", "b.jpg"), ("test", "c.jpg")):
        (tmp_path / f"Flickr_8k.{split}Images.txt").write_text(f"{names}\n")
    assert sizes(flickr(tmp_path, loading)) == (1, 1, 1)
    (tmp_path / "Flickr_8k.testImages.txt").write_text("c.jpg\nd.jpg\n")
    with pytest.raises(ValueError, match=r"no caption for 1 images of the test list: d.jpg"):
        flickr(tmp_path, loading).split("test")
    (tmp_path / "Flickr_8k.testImages.txt").write_text("a.jpg\nc.jpg\n")
    with pytest.raises(ValueError, match=r"listed more than once in its splits: a.jpg"):
        flickr(tmp_path, loading).split("train")


def test_quotes_of_a_caption_are_its_own_unless_they_are_around_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text('a.jpg,"Hello," says a man\na.jpg,"a dog", brown\na.jpg,"a dog, brown"\n')
    assert read_captions(path) == {"a.jpg": ['"Hello," says a man', '"a dog", brown', "a dog, brown"]}
    path.write_text('a.jpg,x\nb.jpg,"a big dog\nc.jpg,y"\n')
    with pytest.raises(ValueError, match=r"c.txt, line 2: the quote that opens here is not closed on this line"):
        read_captions(path)
