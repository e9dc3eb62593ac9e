"""Transforms whose view may reach beyond the photo, as detectors see photos: the aspect ratio is kept and the rest is filled.

Boxes, masks, classes and `Batch.frame` follow the view. Filled pixels have no class and no thing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import PIL.Image
import torch
from jaxtyping import UInt8
from torchvision.transforms.v2.functional import pil_to_tensor

from vlp.data.images import Photo, decode_region, to_rgb
from vlp.data.transforms import RESAMPLING, Transform, apply_augmentation, build_augmentation, check_decoder
from vlp.data.view import View, render_padded, resize_padded
from vlp.structures import height_and_width
from vlp.system.errors import UserError

GREY = (124, 116, 104)  # ImageNet's mean; CLIP's is (123, 117, 104)
PLACES = {"top_left": 0.0, "centre": 0.5}  # of the free pixels, the share before the photo


class Letterbox(Transform):
    """The whole photo as large as fits into the image, its aspect ratio kept to within half a pixel.

    image_size: pixels of one side or [height, width].  where: "centre" or "top_left", as OWLv2 has it, in a square.
    fill: red, green and blue of the rest, 0 to 255; OWLv2's is black.  interpolation: Pillow's.  Photos are decoded in full.
    """

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        where: str = "top_left",
        fill: Sequence[int] = GREY,
        interpolation: str = "bicubic",
    ) -> None:
        self.image_size, self.size = image_size, height_and_width(image_size)
        self.where, self.fill = _choose("where", where, PLACES), check_colour(fill)
        self.resample = RESAMPLING[_choose("interpolation", interpolation, RESAMPLING)]

    def choose_view(self, width: int, height: int, rng: random.Random) -> View:
        rows, columns = fitted_size(width, height, self.size)
        top, left = (
            int(PLACES[self.where] * (side - used)) for side, used in zip(self.size, (rows, columns), strict=True)
        )
        return view_of_placed_photo(width, height, resized=(rows, columns), offset=(top, left), size=self.size)

    def render(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        return self(decode_region(photo)), self.choose_view(*photo.size, random.Random(seed))

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        view = self.choose_view(*image.size, random.Random(0))
        return pil_to_tensor(resize_padded(to_rgb(image), view, fill=self.fill, resample=self.resample))


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
        self.where = _choose("where", where, (*PLACES, "random"))

    def choose_view(self, width: int, height: int, rng: random.Random) -> View:
        resized = fitted_size(width, height, self.size, scale=rng.uniform(*self.scale))
        offset = tuple(self._offset(side - used, rng) for side, used in zip(self.size, resized, strict=True))
        mirrored = self.flip and rng.random() < 0.5
        return view_of_placed_photo(
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
        return view_of_placed_photo(width, height, resized=self.size, offset=(top, left), size=self.size)


def fitted_size(width: int, height: int, size: tuple[int, int], *, scale: float = 1.0) -> tuple[int, int]:
    """Height and width, at least a pixel, of a photo whose longer side (relative to the image's) is `scale` of it."""
    factor = scale * min(size[0] / height, size[1] / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def view_of_placed_photo(
    width: int,
    height: int,
    *,
    resized: tuple[int, int],
    offset: tuple[int, int],
    size: tuple[int, int],
    mirrored: bool = False,
) -> View:
    """width, height: of the photo.  resized: its height and width in the image, offset: of its top and left there; size: of
    the image. Edges of the photo lie between pixels of the image."""
    down, across = height / resized[0], width / resized[1]  # pixels of the photo for one of the image
    return View(
        left=-offset[1] * across,
        top=-offset[0] * down,
        width=size[1] * across,
        height=size[0] * down,
        size=size,
        mirrored=mirrored,
    )


def check_colour(fill: Sequence[int]) -> tuple[int, int, int]:
    """Raises UserError unless it is red, green and blue from 0 to 255."""
    if len(fill) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in fill):
        raise UserError(f"fill={list(fill)}: give red, green and blue, each from 0 to 255")
    return fill[0], fill[1], fill[2]


def _choose(name: str, value: str, choices: Iterable[str]) -> str:
    if value not in choices:
        raise UserError(f"unknown {name} {value!r} of a transform: choose {' or '.join(choices)}")
    return value
