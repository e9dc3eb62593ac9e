from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import PIL.Image
import pytest

from vlp.data.other_pictures import OtherPictures, next_in_ring
from vlp.data.transforms import EvalTransform
from vlp.structures import NO_IMAGE, Sample


def test_every_picture_is_given_once_and_never_to_itself() -> None:
    for ids in ([3, 9], list(range(40)), [5, 7, 5, 7, 1]):
        ring = next_in_ring(ids)
        assert sorted(ring) == sorted(ring.values()) == sorted(set(ids))
        assert all(own != other for own, other in ring.items())
    assert next_in_ring(list(range(40))) == next_in_ring(list(range(39, -1, -1))), "whatever their order is"


def test_one_picture_has_no_other() -> None:
    with pytest.raises(ValueError, match="it needs two pictures"):
        next_in_ring([4, 4])


def test_pixels_are_those_of_the_other_picture(tmp_path: Path) -> None:
    samples = []
    for number in range(3):
        PIL.Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(tmp_path / f"{number}.png")
        samples.append(Sample(id=number, sample=number, image=tmp_path / f"{number}.png", question="q"))
    samples.append(Sample(id=9, sample=9, image=NO_IMAGE, question="q"))
    data = SimpleNamespace(name="toy", split=lambda _: samples, transform={"eval": EvalTransform(image_size=8)})
    ring = next_in_ring([0, 1, 2])
    image = OtherPictures(data, "val").images([2, 0])
    assert image.pixels[:, 0, 0, 0].tolist() == [10 * ring[2], 10 * ring[0]]
