"""Transforms whose view may reach beyond the photo, as detectors see photos: the aspect ratio is kept and the rest is filled.

Boxes, masks, classes and `Batch.frame` follow the view. Filled pixels have no class and no thing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import PIL.Image
import torch
from jaxtyping import UInt8
from torchvision.transforms.v2.functional import pil_to_tensor

from vlp.data.images import Photo, decode_region, to_rgb
from vlp.data.placement import PLACES, check_colour, choose, fitted_size, resize_padded
from vlp.data.resizing import GREY, LetterboxResizer
from vlp.data.transforms import Transform, apply_augmentation, build_augmentation, check_decoder
from vlp.data.view import View, render_padded
from vlp.structures import height_and_width
from vlp.system.errors import UserError


class Letterbox(Transform):
    """The settings are those of `vlp.data.resizing.LetterboxResizer`.  Photos are decoded in full."""

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        where: str = "top_left",
        fill: Sequence[int] = GREY,
        interpolation: str = "bicubic",
    ) -> None:
        self.resizer = LetterboxResizer(image_size=image_size, where=where, fill=fill, interpolation=interpolation)
        self.image_size, self.size = image_size, self.resizer.size

    def choose_view(self, width: int, height: int, rng: random.Random) -> View:
        return View.from_placement(self.resizer.place(width, height))

    def render(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        return self(decode_region(photo)), self.choose_view(*photo.size, random.Random(seed))

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        return pil_to_tensor(self.resizer.resize(image))


class _RandomView(Transform):
    """Training transforms: a random view, then a change of colours."""

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        fill: Sequence[int],
        colour_jitter: Sequence[float] | None,
        decoder: str,
        reduce: bool,
    ) -> None:
        self.image_size, self.size = image_size, height_and_width(image_size)
        self.fill = check_colour(fill)
        self.decoder, self.reduce = check_decoder(decoder), reduce
        self.augment = build_augmentation(None, colour_jitter)

    def render(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        view = self.choose_view(*photo.size, random.Random(seed))
        pixels = render_padded(photo, view, fill=self.fill, decoder=self.decoder, reduce=self.reduce)
        return apply_augmentation(pixels, self.augment, seed), view

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        """From a decoded image, by Pillow, with random numbers of the global generators."""
        view = self.choose_view(*image.size, random.Random(int(torch.randint(1 << 62, ()))))
        placed = resize_padded(to_rgb(image), view, fill=self.fill)
        return pil_to_tensor(placed if self.augment is None else self.augment(placed))


class ScaleJitter(_RandomView):
    """Large-scale jitter: the photo is scaled to between a tenth and twice of what fits into the image, its aspect ratio
    kept; then a random crop of the image's size, or padding where it is smaller (Ghiasi et al., "Simple Copy-Paste",
    CVPR 2021, §3; detectron2 configs/common/data/coco.py with FixedSizeCrop).

    image_size: pixels of one side or [height, width].  scale: smallest and largest, even chances.  flip: half of the photos
    are mirrored; false where words speak of left and right.  where: a smaller photo lies "top_left", in the "centre" or
    anywhere ("random").  fill: red, green and blue beyond the photo.  colour_jitter: (brightness, contrast, saturation, hue).
    decoder, reduce: see `render_view`.
    """

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        scale: Sequence[int | float] = (0.1, 2.0),
        flip: bool = True,
        where: str = "top_left",
        fill: Sequence[int] = GREY,
        colour_jitter: Sequence[float] | None = None,
        decoder: str = "pillow",
        reduce: bool = True,
    ) -> None:
        super().__init__(image_size=image_size, fill=fill, colour_jitter=colour_jitter, decoder=decoder, reduce=reduce)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise UserError(f"scale={list(scale)} of ScaleJitter: give the smallest and the largest, above 0")
        self.scale, self.flip = (scale[0], scale[1]), flip
        self.where = choose("where", where, (*PLACES, "random"))

    def choose_view(self, width: int, height: int, rng: random.Random) -> View:
        resized = fitted_size(width, height, self.size, scale=rng.uniform(*self.scale))
        offset = tuple(self._offset(side - used, rng) for side, used in zip(self.size, resized, strict=True))
        mirrored = self.flip and rng.random() < 0.5
        return View.of_placed_photo(
            width, height, resized=resized, offset=(offset[0], offset[1]), size=self.size, mirrored=mirrored
        )

    def _offset(self, free: int, rng: random.Random) -> int:
        """Pixels before the photo, negative where it is cut.  free: of a side of the image, those that the photo leaves."""
        drawn = rng.random()  # always one, so that later numbers do not depend on the photo's shape
        if free < 0 or self.where == "random":
            return round(drawn * free)
        return int(PLACES[self.where] * free)


class Shift(_RandomView):
    """The whole photo, made as large as the image, then moved by whole pixels: for generated scenes, whose words speak of
    left and right and of sizes, and of which a crop would cut things.

    image_size: pixels of one side or [height, width].  shift: the farthest, in pixels of the image, in each direction.
    fill: red, green and blue beyond the photo.  colour_jitter: (brightness, contrast, saturation, hue).  decoder, reduce: see
    `render_view`.
    """

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        shift: int = 4,
        fill: Sequence[int] = GREY,
        colour_jitter: Sequence[float] | None = None,
        decoder: str = "pillow",
        reduce: bool = True,
    ) -> None:
        super().__init__(image_size=image_size, fill=fill, colour_jitter=colour_jitter, decoder=decoder, reduce=reduce)
        if not 0 <= shift < min(self.size):
            raise UserError(f"shift={shift} of Shift: give whole pixels, from 0 to less than image_size={image_size}")
        self.shift = shift

    def choose_view(self, width: int, height: int, rng: random.Random) -> View:
        top, left = (rng.randint(-self.shift, self.shift) for _ in self.size)
        return View.of_placed_photo(width, height, resized=self.size, offset=(top, left), size=self.size)
