from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from tests.data.pictures import ALTERATIONS, picture, save_altered
from vlp.curation.duplicates.fingerprints import compute_fingerprints
from vlp.curation.duplicates.near_pairs import near_pairs
from vlp.curation.duplicates.perceptual_hash import (
    MAX_DISTANCE,
    are_same_picture,
    has_low_information,
    perceptual_hashes,
    thumbnail,
)
from vlp.data.images import open_image


def thumbnails(images: list[PIL.Image.Image]) -> np.ndarray:
    return np.stack([thumbnail(image) for image in images])


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_an_altered_copy_is_the_same_picture_and_no_other(alteration: str, tmp_path: Path) -> None:
    originals = [picture(seed) for seed in range(20)]
    copies = [
        open_image(save_altered(image, alteration, tmp_path / str(seed)), decode_side=64)
        for seed, image in enumerate(originals)
    ]
    left, right = thumbnails(originals), thumbnails(copies)
    distances = np.bitwise_count(perceptual_hashes(left)[:, None] ^ perceptual_hashes(right))
    assert (distances.diagonal() <= MAX_DISTANCE).mean() >= (0.7 if "5 %" in alteration else 1)
    assert are_same_picture(left, right).all()
    first, second = (~np.eye(20, dtype=bool)).nonzero()
    assert not are_same_picture(left[first], right[second]).any()
    assert (distances[first, second] <= MAX_DISTANCE).mean() < 0.01


def test_hashes_do_not_depend_on_the_batch_size() -> None:
    grey = thumbnails([picture(seed) for seed in range(5)])
    assert np.array_equal(perceptual_hashes(grey), np.concatenate([perceptual_hashes(grey[[i]]) for i in range(5)]))
    assert perceptual_hashes(grey[:0]).shape == (0,)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_a_thumbnail_is_made_of_any_mode_and_size(mode: str) -> None:
    for size in [(640, 480), (3, 200), (1, 1)]:
        grey = thumbnail(picture(1).resize(size).convert(mode))
        assert grey.shape == (32, 32)
        assert grey.dtype == np.uint8


def plain_pictures() -> dict[str, PIL.Image.Image]:
    spot = PIL.Image.new("RGB", (300, 200), "white")
    PIL.ImageDraw.Draw(spot).point((150, 100), "black")
    return {
        "white": PIL.Image.new("RGB", (300, 200), "white"),
        "black": PIL.Image.new("RGB", (300, 200), "black"),
        "grey": PIL.Image.new("L", (300, 200), 128),
        "white, other size": PIL.Image.new("RGB", (200, 300), "white"),
        "one black pixel": spot,
    }


def test_plain_pictures_have_low_information_and_photos_do_not() -> None:
    assert has_low_information(thumbnails(list(plain_pictures().values()))).all()
    assert not has_low_information(thumbnails([picture(seed) for seed in range(50)])).any()


def test_plain_pictures_are_the_same_only_by_their_pixels(tmp_path: Path) -> None:
    files = []
    for name, image in plain_pictures().items():
        image.save(tmp_path / f"{name}.png")
        files.append(tmp_path / f"{name}.png")
    plain_pictures()["white"].save(tmp_path / "white.bmp")
    fingerprints = compute_fingerprints([*files, tmp_path / "white.bmp"])
    assert fingerprints.first_copy.tolist() == [0, 1, 2, 3, 4, 0]
    assert fingerprints.near_duplicates() == []
    assert fingerprints.distance_if_same(0, 5) == 0
    assert [fingerprints.distance_if_same(0, other) for other in range(1, 5)] == [None] * 4


def test_unreadable_images_are_not_duplicates(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "same.jpg").write_bytes(b"no image")
    fingerprints = compute_fingerprints([tmp_path / "bad.jpg", tmp_path / "same.jpg", tmp_path / "gone.jpg"])
    assert list(fingerprints.unreadable) == [0, 1, 2]
    assert fingerprints.distance_if_same(0, 1) is None
    assert fingerprints.near_duplicates() == []


def test_several_processes_compute_the_same_fingerprints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [save_altered(picture(seed, (64, 48)), "quality 95", tmp_path / str(seed)) for seed in range(70)]
    single_process = compute_fingerprints(files, workers=1)
    monkeypatch.setattr("vlp.system.parallel.FEW", 0)
    two_processes = compute_fingerprints(files, workers=2)
    assert two_processes.file_hashes == single_process.file_hashes
    assert np.array_equal(two_processes.hashes, single_process.hashes)


def test_altered_photos_are_matched_and_different_photos_are_not(shared: Path, tmp_path: Path) -> None:
    listed = json.loads((shared / "data/flickr8k/dataset_flickr8k.json").read_text())["images"]
    files = [shared / "data/flickr8k/Images" / record["filename"] for record in listed[:400]]
    fingerprints = compute_fingerprints(files)
    assert not fingerprints.pixel_hashes
    recall = {}
    for alteration in ALTERATIONS:
        with_copies = files[::20]
        copies = compute_fingerprints(
            [save_altered(PIL.Image.open(file), alteration, tmp_path / f"{n}") for n, file in enumerate(with_copies)]
        )
        near = np.bitwise_count(fingerprints.hashes[::20] ^ copies.hashes) <= MAX_DISTANCE
        recall[alteration] = float((near & are_same_picture(fingerprints.thumbnails[::20], copies.thumbnails)).mean())
    crops = [recall.pop(alteration) for alteration in ("5 % off each side", "5 % off two sides")]
    assert min(crops) >= 0.6, crops
    assert min(recall.values()) >= 0.95, recall
    assert sum(len(first) for first, _, _ in near_pairs(fingerprints.hashes, MAX_DISTANCE)) < 10
    assert fingerprints.near_duplicates() == []
