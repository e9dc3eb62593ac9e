"""The pictures that verbs take: paths or Pillow's images, upright, and which part of a photo a transform shows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from vlp.data.collate import pad_images
from vlp.data.images import open_image
from vlp.data.inputs import upright
from vlp.data.transforms import Transform
from vlp.structures import Image
from vlp.system.errors import UserError

Picture = str | Path | PIL.Image.Image


def open_picture(image: Picture) -> PIL.Image.Image:
    """Upright, as a file is."""
    if isinstance(image, (str, Path)):
        return open_image(image)
    return upright(image)


def photo_frame(transform: Any, photo: PIL.Image.Image) -> tuple[float, float, float, float] | None:
    """What the transformed image shows, as `Batch.frame` has it; None for a transform that does not say (any function)."""
    if not isinstance(transform, Transform):
        return None
    return transform.choose_view(photo.width, photo.height, random.Random(0)).frame


@dataclass(frozen=True)
class ShownPhotos:
    """image: on the model's device.  frame: see `Batch`.  sizes: height and width of the upright photos."""

    image: Image
    frame: Float[Tensor, "b 4"]
    sizes: list[tuple[int, int]]


def show_photos(predictor: Any, pictures: Sequence[Picture], results: str) -> ShownPhotos:
    """A batch, and what is needed to write results in the photos' pixels.  results: for the message of the UserError for a
    transform that does not say what it shows."""
    predictor.model.part("vision")  # an error that names it where there is none
    transform = predictor.require_transform()
    photos = [open_picture(picture) for picture in pictures]
    frames = [photo_frame(transform, photo) for photo in photos]
    if None in frames:
        raise UserError(f"{results} in pixels of the photo need a predictor.transform of vlp.data.transforms")
    image = pad_images([transform(photo) for photo in photos]).to(predictor.device)
    frame = torch.tensor(frames, device=predictor.device)
    return ShownPhotos(image=image, frame=frame, sizes=[(photo.height, photo.width) for photo in photos])
