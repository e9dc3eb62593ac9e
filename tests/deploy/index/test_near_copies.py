from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw

from tests.deploy.index.conftest import build_index
from tests.deploy.index.fake_engine import FakeEngine
from tests.deploy.index.photos import draw_photo, save_photo
from vlp.curation.duplicates.perceptual_hash import MAX_DISTANCE
from vlp.deploy.index.near_copies import (
    fold_near_copies,
    hash_from_text,
    hash_to_text,
    have_equal_colours,
    list_copy_groups,
    picture_hashes,
)
from vlp.deploy.index.photo_index import open_index
from vlp.deploy.index.store import Store


def recompressed(image: PIL.Image.Image, side: int, quality: int) -> PIL.Image.Image:
    stream = io.BytesIO()
    image.resize((side, side)).save(stream, "JPEG", quality=quality)
    return PIL.Image.open(stream)


def save_copies(folder: Path) -> None:
    """a and its copies b, c; d, another photo of the same colour; e and f, of one colour without structure."""
    folder.mkdir()
    original = draw_photo("red", seed=1, side=200)
    original.save(folder / "a.png")
    recompressed(original, 120, 60).save(folder / "b.png")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    save_photo(folder / "d.jpg", "red", seed=2)
    PIL.Image.new("RGB", (90, 90), (200, 20, 20)).save(folder / "e.png")
    PIL.Image.new("RGB", (90, 60), (202, 20, 20)).save(folder / "f.png")


def test_copies_are_one_hit_and_other_photos_are_not(tmp_path: Path, engine: FakeEngine) -> None:
    save_copies(tmp_path / "photos")
    build_index(tmp_path / "store", engine, [tmp_path / "photos"])
    index = open_index(tmp_path / "store", engine)
    hits = index.search("red", k=10)
    groups = {tuple(sorted(Path(path).name for path in (hit.path, *hit.copies))) for hit in hits}
    assert groups == {("a.png", "b.png", "c.png"), ("d.jpg",), ("e.png",), ("f.png",)}
    assert len(index.search("red", k=10, fold=False)) == 6
    assert index.search("red", k=1, offset=1) == hits[1:2]
    pages = [hit for offset in range(4) for hit in index.search("red", k=1, offset=offset)]
    assert [hit.id for hit in pages] == [hit.id for hit in hits]


def test_copies_of_an_index_are_listed(tmp_path: Path, engine: FakeEngine) -> None:
    save_copies(tmp_path / "photos")
    (tmp_path / "photos/g.png").write_bytes((tmp_path / "photos/e.png").read_bytes())
    build_index(tmp_path / "store", engine, [tmp_path / "photos"])
    groups = [[Path(path).name for path in group] for group in list_copy_groups(Store(tmp_path / "store"))]
    assert groups == [["a.png", "b.png", "c.png"], ["e.png", "g.png"]]


def test_a_picture_without_structure_has_no_hash(engine: FakeEngine) -> None:
    pixels = engine.load_pixels([draw_photo("red"), PIL.Image.new("RGB", (50, 50), "white")])
    hashes = picture_hashes(pixels)
    assert hashes[0, 0] != 0
    assert hashes[1, 0] == 0


def test_near_hashes_of_photos_that_the_model_tells_from_each_other_are_no_copies() -> None:
    hashes = np.array([[0b1111, 0], [0b1110, 0], [0b1111, 0], [0, 0]], dtype=np.uint64)
    vectors = np.array([[1, 0], [0.99, 0.14], [0, 1], [1, 0]], dtype=np.float32)
    assert fold_near_copies(hashes, vectors) == [[0, 1], [2], [3]]


def drawing(colour: str, side: int = 64) -> PIL.Image.Image:
    """A small circle and a bar on white, as simple as drawings are."""
    picture = PIL.Image.new("RGB", (256, 256), "white")
    draw = PIL.ImageDraw.Draw(picture)
    draw.ellipse((40, 50, 100, 110), fill=colour)
    draw.rectangle((150, 160, 230, 180), fill="black")
    return picture.resize((side, side), PIL.Image.Resampling.LANCZOS)


def as_pixels(pictures: list[PIL.Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture.convert("RGB").resize((64, 64))).transpose(2, 0, 1) for picture in pictures])


def test_drawings_that_differ_in_a_colour_alone_are_no_copies_of_each_other() -> None:
    """Even where the model has the same embedding for all."""
    colours = ("red", "blue", "green", "purple", "gray")
    hashes = picture_hashes(as_pixels([drawing(colour) for colour in colours]))
    assert max(np.bitwise_count(hashes[:, 0] ^ hashes[0, 0])) <= MAX_DISTANCE, "their gray hashes are near"
    assert fold_near_copies(hashes, np.ones((len(colours), 4), np.float32)) == [
        [number] for number in range(len(colours))
    ]


def test_small_crops_and_strong_compression_keep_the_colours() -> None:
    pictures = [
        draw_photo(colour, seed=seed, side=200) for seed, colour in enumerate(("red", "green", "blue", "yellow"))
    ]
    pictures += [drawing(colour, 200) for colour in ("red", "blue", "orange")]
    colours = picture_hashes(as_pixels(pictures))[:, 1]
    for changed in (
        [recompressed(picture, 150, 30) for picture in pictures],
        [picture.crop((5, 5, 195, 195)) for picture in pictures],
    ):
        assert have_equal_colours(colours, picture_hashes(as_pixels(changed))[:, 1]).all()


def test_a_hash_is_the_same_after_it_was_written_as_text() -> None:
    one = np.array([2**63 + 5, 7], dtype=np.uint64)
    assert hash_from_text(hash_to_text(one)).tolist() == one.tolist()
