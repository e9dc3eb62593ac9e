from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from tests.data.pictures import ALTERATIONS, picture, save_altered
from vlp.curation.duplicates.overlap import find_overlaps
from vlp.structures import Sample


@pytest.fixture
def make_samples(tmp_path: Path) -> Callable[..., list[Sample]]:
    def make(folder: str, seeds: range, first_id: int = 0) -> list[Sample]:
        (tmp_path / folder).mkdir(exist_ok=True)
        samples = []
        for number, seed in enumerate(seeds):
            file = tmp_path / folder / f"{number}.jpg"
            picture(seed).save(file, quality=90)
            samples.append(
                Sample(id=first_id + number, sample=number, image=file, captions=(f"{folder} shows {number}",))
            )
        return samples

    return make


def altered(sample: Sample, alteration: str, file: Path, identity: int) -> Sample:
    return Sample(
        id=identity, sample=0, image=save_altered(PIL.Image.open(sample.image), alteration, file), captions=("new",)
    )


def test_seven_planted_photos_are_found_under_other_names_and_ids(
    make_samples: Callable[..., list[Sample]], tmp_path: Path
) -> None:
    train, test = make_samples("coco", range(60)), make_samples("flickr", range(100, 140), first_id=10_000)
    changes = ["quality 30", "half size", "224 square", "brighter", "grey", "2 % off each side", "png"]
    planted = [altered(train[5 * n], change, tmp_path / f"other_{n}", 20_000 + n) for n, change in enumerate(changes)]
    report = find_overlaps({"coco/train": train, "flickr/test": [*test, *planted]})
    (overlap,) = report.overlaps
    assert (overlap.left, overlap.right, overlap.how, overlap.count) == ("coco/train", "flickr/test", "looks alike", 7)
    assert {(e.left, e.right) for e in overlap.examples} <= {
        (str(train[5 * n].image), str(planted[n].image)) for n in range(7)
    }
    assert str(overlap).startswith("coco/train and flickr/test: 7 photos look alike")
    assert report.images == {"coco/train": 60, "flickr/test": 47}
    assert report.captions == report.unreadable == ()


def test_a_common_photo_is_reported_once_by_the_strongest_evidence(
    make_samples: Callable[..., list[Sample]], tmp_path: Path
) -> None:
    left = make_samples("left", range(12))
    same_id = [altered(left[n], "quality 30", tmp_path / f"id_{n}", left[n].id) for n in range(2)]
    same_file = []
    for n in range(2, 5):
        (tmp_path / f"file_{n}.jpg").write_bytes(left[n].image.read_bytes())
        same_file.append(Sample(id=500 + n, sample=0, image=tmp_path / f"file_{n}.jpg"))
    alike = [altered(left[n], "half size", tmp_path / f"alike_{n}", 600 + n) for n in range(5, 9)]
    other_photo = Sample(id=left[10].id, sample=0, image=make_samples("right", range(300, 301))[0].image)
    report = find_overlaps({"left": left, "right": [*same_id, *same_file, *alike, other_photo]})
    assert {overlap.how: overlap.count for overlap in report.overlaps} == {
        "id": 2,
        "same file": 3,
        "looks alike": 4,
        "same id, other picture": 1,
    }
    assert report.overlaps[1].examples[0].distance == 0
    assert report.overlaps[3].examples[0].distance is None


def test_copies_on_one_side_are_one_photo(make_samples: Callable[..., list[Sample]], tmp_path: Path) -> None:
    left = make_samples("left", range(3))
    copies = [altered(left[0], "half size", tmp_path / f"{n}", 100 + n) for n in range(4)]
    (overlap,) = find_overlaps({"left": left, "right": copies}).overlaps
    assert overlap.count == 1


def test_three_sources_are_compared_pair_by_pair(make_samples: Callable[..., list[Sample]]) -> None:
    train, val, test = (
        make_samples("train", range(10)),
        make_samples("val", range(8, 20), 100),
        make_samples("test", range(18, 25), 200),
    )
    report = find_overlaps({"train": train, "val": val, "test": test})
    assert [(o.left, o.right, o.how, o.count) for o in report.overlaps] == [
        ("train", "val", "same file", 2),
        ("val", "test", "same file", 2),
    ]


def test_unreadable_images_are_counted_and_still_known_by_their_id(
    make_samples: Callable[..., list[Sample]], tmp_path: Path
) -> None:
    left, right = make_samples("left", range(4)), make_samples("right", range(50, 54), 100)
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 cut off")
    bad = Sample(id=left[1].id, sample=0, image=tmp_path / "bad.jpg")
    gone = Sample(id=999, sample=0, image=tmp_path / "gone.jpg")
    report = find_overlaps({"left": left, "right": [*right, bad, gone]})
    (unreadable,) = report.unreadable
    assert (unreadable.name, unreadable.count) == ("right", 2)
    assert unreadable.examples[1].startswith(f"{tmp_path / 'gone.jpg'}: ")
    assert [(o.how, o.count) for o in report.overlaps] == [("id", 1)]


def test_captions_in_both_are_counted(make_samples: Callable[..., list[Sample]]) -> None:
    left, right = make_samples("left", range(3)), make_samples("right", range(10, 13), 100)
    first = Sample(id=7000, sample=0, image=left[0].image, captions=("a  dog", "a cat", "A dog"))
    second = Sample(id=7001, sample=0, image=right[0].image, captions=("a dog", "left shows 2"))
    (shared_captions,) = find_overlaps({"left": [*left, first], "right": [*right, second]}).captions
    assert (shared_captions.count, shared_captions.examples) == (2, ("a dog", "left shows 2"))


def test_names_of_files_cannot_write_on_the_terminal(make_samples: Callable[..., list[Sample]], tmp_path: Path) -> None:
    (sample,) = make_samples("left", range(1))
    copy = altered(sample, "half size", tmp_path / "\x1b[31mred", 5)
    (overlap,) = find_overlaps({"left": [sample], "right": [copy]}).overlaps
    assert "\x1b" not in str(overlap)
    assert r"\x1b[31mred" in str(overlap)


def test_seven_planted_among_real_photos(shared: Path, tmp_path: Path) -> None:
    listed = json.loads((shared / "data/flickr8k/dataset_flickr8k.json").read_text())["images"]
    samples = [
        Sample(id=n, sample=n, image=shared / "data/flickr8k/Images" / record["filename"])
        for n, record in enumerate(listed[:900])
    ]
    train, test = samples[:600], samples[600:]
    changes = [name for name in ALTERATIONS if "5 %" not in name][:7]
    planted = [altered(train[80 * n], change, tmp_path / f"{n}", 10_000 + n) for n, change in enumerate(changes)]
    report = find_overlaps({"train": train, "test": [*test, *planted]})
    assert [(o.how, o.count) for o in report.overlaps] == [("looks alike", 7)]
