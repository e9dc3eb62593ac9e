"""Which part of a photo a transform shows."""

from __future__ import annotations

import PIL.Image

from vlp.data.transforms import EvalTransform
from vlp.verbs.pictures import open_picture, photo_frame


def test_frame_of_a_squashed_and_of_a_cropped_photo() -> None:
    photo = PIL.Image.new("RGB", (40, 10))
    assert photo_frame(EvalTransform(image_size=8, mode="squash"), photo) == (0, 0, 40, 10)
    assert photo_frame(EvalTransform(image_size=8), photo) == (15, 0, 10, 10)
    assert photo_frame(lambda image: image, photo) is None


def test_a_picture_is_upright() -> None:
    photo = PIL.Image.new("RGB", (40, 10))
    photo.getexif()[0x0112] = 6
    assert open_picture(photo).size == (10, 40)
