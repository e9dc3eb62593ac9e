"""Official lines and lists of photos; photos that are there or not; batches of both."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.datasets.splits import pictures
from vlp.data.image_ids import FLICKR_BASE
from vlp.datasets.multi30k import Multi30k

LINES = {"train": 4, "val": 2, "test_2016_flickr": 2, "test_2017_mscoco": 1}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "task1" / "raw").mkdir(parents=True)
    (tmp_path / "task1" / "image_splits").mkdir()
    for base, (name, count) in zip((10, 20, 30, 40), LINES.items(), strict=True):
        for language in ("en", "de"):
            text = "".join(f"Line {base + i} of a red {language}.\n" for i in range(count))
            (tmp_path / "task1" / "raw" / f"{name}.{language}.gz").write_bytes(gzip.compress(text.encode()))
        photos = [f"{base + i}.jpg" for i in range(count)]
        if "mscoco" in name:
            photos = [f"COCO_val2014_0000000000{base + i}.jpg#17" for i in range(count)]
        (tmp_path / "task1" / "image_splits" / f"{name}.txt").write_text("".join(f"{photo}\n" for photo in photos))
    pictures(tmp_path / "photos", "10_0123456789.jpg", "13.jpg", "20.jpg", "31.jpg")
    return tmp_path


def multi30k(root: Path, loading: dict[str, Any], **changed: Any) -> Multi30k:
    return Multi30k(root=root, **{"photos": root / "photos", **loading, **changed})


def test_texts_are_the_files_lines_and_photos_have_their_flickr_number(
    root: Path, loading: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    samples = list(multi30k(root, loading).split("train"))
    assert [s.question for s in samples] == [f"Line {i} of a red en." for i in (10, 11, 12, 13)]
    assert samples[1].answers == ("Line 11 of a red de.",)
    assert [s.id - FLICKR_BASE for s in samples] == [10, 11, 12, 13]
    assert [s.image.name if s.has_image else None for s in samples] == ["10_0123456789.jpg", None, None, "13.jpg"]
    assert "train (train): 2 of 4 lines have their photo" in capsys.readouterr().err


def test_languages_can_be_exchanged_and_colours_masked(root: Path, loading: dict[str, Any]) -> None:
    sample = multi30k(root, loading, source="de", target="en", masked_colours=True).split("val")[0]
    assert (sample.question, sample.answers) == ("Line 20 of a red de.", ("Line 20 of a red en.",)), "red is no German"
    sample = multi30k(root, loading, masked_colours=True).split("val")[0]
    assert sample.question == "Line 20 of a [v] en."


def test_lines_without_photo_are_left_out_where_that_is_wanted(
    root: Path, loading: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    data = multi30k(root, loading, without_photo="leave_out")
    assert [s.question for s in data.split("train")] == ["Line 10 of a red en.", "Line 13 of a red en."]
    assert [s.sample for s in data.split("test")] == [2_000_001]
    printed = capsys.readouterr().err
    assert "test (test_2016_flickr): 1 of 2 lines have their photo" in printed
    assert "the others are left out" in printed


def test_lists_of_coco_are_cut_at_their_number(root: Path, loading: dict[str, Any]) -> None:
    pictures(root / "photos", "COCO_val2014_000000000040.jpg")
    (sample,) = multi30k(root, loading, test_split="test_2017_mscoco").split("test")
    assert sample.image.name == "COCO_val2014_000000000040.jpg"


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"target": "it"}, "data.target=it: choose from en, de, fr, cs"),
        ({"target": "en"}, "both en"),
        ({"target": "cs"}, "has no cs for train: .* Czech exists for"),
        ({"without_photo": "drop"}, "choose text or leave_out"),
        ({"photos": None, "without_photo": "leave_out"}, "give their folder"),
    ],
)
def test_settings_that_do_not_fit(root: Path, loading: dict[str, Any], changed: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        multi30k(root, loading, **changed).split("train")


def test_files_of_different_lengths_and_empty_lines(root: Path, loading: dict[str, Any]) -> None:
    file = root / "task1" / "raw" / "val.de.gz"
    file.write_bytes(gzip.compress(b"one line\n"))
    with pytest.raises(ValueError, match="val has 2 lines of en and 1 of de"):
        multi30k(root, loading).split("val")
    file.write_bytes(gzip.compress(b"one\n\n"))
    with pytest.raises(ValueError, match="line 2: is empty"):
        multi30k(root, loading).split("val")


def test_a_batch_has_an_image_for_each_line_with_a_photo(root: Path, loading: dict[str, Any]) -> None:
    data = multi30k(root, loading)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    photos = {FLICKR_BASE + 10, FLICKR_BASE + 13}
    assert batch.pictured.tolist() == [i in photos for i in batch.id.tolist()]
    assert len(batch.image.pixels) == 2
    text_alone = multi30k(root, loading, photos=None)
    text_alone.setup("fit")
    (batch,) = text_alone.train_dataloader()
    assert batch.image is None
    assert not batch.pictured.any()


def test_names_of_files_do_not_count_in_the_fingerprint_of_texts(
    root: Path, loading: dict[str, Any], monkeypatch: Any
) -> None:
    before = multi30k(root, loading, photos=None).fingerprint("val")
    monkeypatch.chdir(root)
    assert multi30k(root, loading, photos=None).fingerprint("val") == before


def test_official_files(shared: Path, loading: dict[str, Any]) -> None:
    data = Multi30k(root=shared / "data/multi30k", photos=shared / "data/flickr8k/Images", **loading)
    splits = [data.samples(split) for split in ("train", "val", "test")]
    assert [len(samples) for samples in splits] == [29000, 1014, 1000]
    assert [sum(s.has_image for s in samples) for samples in splits] == [6914, 238, 239]
    assert splits[2][0].answers == ("Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",)
    czech = Multi30k(root=shared / "data/multi30k", target="cs", test_split="test_2018_flickr", **loading)
    assert len(czech.samples("test")) == 1071
    assert torch.tensor([s.sample for s in splits[1]]).unique().numel() == 1014
