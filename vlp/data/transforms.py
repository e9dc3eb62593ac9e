"""From a decoded image to uint8 pixels [3 h w]; the tower normalises them.

`EvalTransform(mode="clip")` equals OpenAI's preprocessing bit by bit, in its order: bicubic resize of the shorter side,
centre crop, conversion to RGB (so a palette image is resized by nearest neighbour, as Pillow does with palettes).
Boxes are mapped to the view; RandAugment, which also shears and rotates, is refused for data with boxes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from contextlib import nullcontext

import PIL.Image
import torch
from jaxtyping import UInt8
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from vlp.data.images import ImageError, Photo, decode_region, to_rgb
from vlp.data.placement import BICUBIC, jpeg_reduction, resize_view
from vlp.data.resizing import EvalResizer
from vlp.data.view import DECODERS, View, render_view, torchcodec_decoder
from vlp.random import seeded
from vlp.structures import height_and_width
from vlp.system.errors import UserError


class Transform:
    """From a photo to uint8 pixels [3 h w]; all randomness is a function of a seed."""

    moves_pixels = False  # whether an augmentation moves pixels, so that boxes mapped by the view would be wrong

    def choose_view(self, width: int, height: int, rng: random.Random) -> View:
        """The part of a photo of this size that is used."""
        raise NotImplementedError

    def render(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        """The pixels, and the part of the photo that they show.  Raises ImageError."""
        raise NotImplementedError


class TrainTransform(Transform):
    """Random resized crop, then the chosen augmentations.

    image_size: pixels of one side or [height, width].
    crop_scale: area of the crop as a fraction of the image; crop_ratio: its width over its height. flip: false where
    captions mention left and right. rand_augment: (operations, magnitude), for example (2, 9) (Cubuk et al.,
    "RandAugment", 2020). colour_jitter: (brightness, contrast, saturation, hue). decoder, reduce: see `render_view`.
    """

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        crop_scale: Sequence[float] = (0.5, 1.0),
        crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: bool = False,
        rand_augment: Sequence[int] | None = None,
        colour_jitter: Sequence[float] | None = None,
        decoder: str = "pillow",
        reduce: bool = True,
    ) -> None:
        self.image_size, self.size, self.flip = image_size, height_and_width(image_size), flip
        self.crop_scale, self.crop_ratio = tuple(crop_scale), tuple(crop_ratio)
        self.decoder, self.reduce = check_decoder(decoder), reduce
        self.moves_pixels = rand_augment is not None
        self.augment = build_augmentation(rand_augment, colour_jitter)

    def choose_view(self, width: int, height: int, rng: random.Random) -> View:
        left, top, crop_width, crop_height = self._sample_crop(width, height, rng)
        mirrored = self.flip and rng.random() < 0.5
        if self.reduce:  # multiples of the reduction are full pixels of the reduced photo
            factor = jpeg_reduction(crop_width, crop_height, self.size)
            left, top = left // factor * factor, top // factor * factor
            crop_width, crop_height = crop_width // factor * factor, crop_height // factor * factor
        return View(left=left, top=top, width=crop_width, height=crop_height, size=self.size, mirrored=mirrored)

    def _sample_crop(self, width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Left, top, width and height, as in torchvision's `RandomResizedCrop.get_params`."""
        low, high = self.crop_ratio
        for _ in range(10):
            area = width * height * rng.uniform(*self.crop_scale)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return rng.randint(0, width - w), rng.randint(0, height - h), w, h
        w, h = width, height  # no sampled crop fits: the largest centre crop with an allowed ratio
        if width / height < low:
            h = round(width / low)
        elif width / height > high:
            w = round(height * high)
        return (width - w) // 2, (height - h) // 2, w, h

    def render(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        view = self.choose_view(*photo.size, random.Random(seed))
        return apply_augmentation(
            render_view(photo, view, decoder=self.decoder, reduce=self.reduce), self.augment, seed
        ), view

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        """From a decoded image, by Pillow, with random numbers of the global generators."""
        image = to_rgb(image)
        rendered = resize_view(image, self.choose_view(*image.size, random.Random(int(torch.randint(1 << 62, ())))))
        return pil_to_tensor(rendered if self.augment is None else self.augment(rendered))


class EvalTransform(Transform):
    """The settings are those of `vlp.data.resizing.EvalResizer`.  Images are always decoded in full, by Pillow."""

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        mode: str = "clip",
        resize: int | Sequence[int] | None = None,
        interpolation: str = "bicubic",
        crop_offset: str = "round",
        rgb: str = "last",
    ) -> None:
        self.resizer = EvalResizer(
            image_size=image_size,
            mode=mode,
            resize=resize,
            interpolation=interpolation,
            crop_offset=crop_offset,
            rgb=rgb,
        )
        self.image_size, self.size = image_size, self.resizer.size

    def choose_view(self, width: int, height: int, rng: random.Random) -> View:
        return View.from_placement(self.resizer.place(width, height))

    def render(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        return self(decode_region(photo)), self.choose_view(*photo.size, random.Random(seed))

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        return pil_to_tensor(self.resizer.resize(image))


class MinMaxTransform(Transform):
    """Keeps the aspect ratio: the shorter side becomes `image_size`, unless the longer one would exceed `longest`; then both
    sides are rounded down to multiples of `multiple`, which changes the ratio slightly (ViLT, arXiv:2102.03334, §4.1;
    dandelin/ViLT vilt/transforms/utils.py `MinMaxResize`).

    longest: None = 1333/800 of `image_size`, as in object detection.  rand_augment: (operations, magnitude), in training.
    decoder, reduce: see `render_view`; by default, decoded in full and resized by Pillow, as the original does.
    """

    def __init__(
        self,
        *,
        image_size: int = 384,
        longest: int | None = None,
        multiple: int = 32,
        rand_augment: Sequence[int] | None = None,
        decoder: str = "pillow",
        reduce: bool = False,
    ) -> None:
        self.image_size, self.multiple = image_size, multiple
        self.decoder, self.reduce = check_decoder(decoder), reduce
        self.longest = int(1333 / 800 * image_size) if longest is None else longest
        self.moves_pixels = rand_augment is not None
        self.augment = build_augmentation(rand_augment)

    def choose_view(self, width: int, height: int, rng: random.Random) -> View:
        """Raises ImageError if the shorter side would become 0."""
        shorter = min(width, height)
        scale = self.image_size / shorter
        sides = [self.image_size if side == shorter else scale * side for side in (width, height)]
        if max(sides) > self.longest:
            scale = self.longest / max(sides)
            sides = [scale * side for side in sides]
        columns, rows = (int(side + 0.5) // self.multiple * self.multiple for side in sides)
        if not columns or not rows:
            raise ImageError(
                f"image of {width} x {height} pixels: too narrow, the shorter side would have {min(sides):.0f} pixels and "
                f"must have at least {self.multiple}"
            )
        return View(left=0, top=0, width=width, height=height, size=(rows, columns))

    def render(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        view = self.choose_view(*photo.size, random.Random(seed))
        if self.decoder == "pillow" and not self.reduce:
            with seeded(seed) if self.augment is not None else nullcontext():
                return self(decode_region(photo)), view
        return apply_augmentation(
            render_view(photo, view, decoder=self.decoder, reduce=self.reduce), self.augment, seed
        ), view

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        """Raises ImageError if the shorter side would become 0."""
        image = to_rgb(image)
        height, width = self.choose_view(*image.size, random.Random(0)).size
        if self.augment is not None:
            image = self.augment(image)
        return pil_to_tensor(image.resize((width, height), BICUBIC))


def build_augmentation(
    rand_augment: Sequence[int] | None, colour_jitter: Sequence[float] | None = None
) -> torch.nn.Module | None:
    steps: list[torch.nn.Module] = []
    if rand_augment is not None:
        operations, magnitude = rand_augment
        bilinear = v2.InterpolationMode.BILINEAR
        steps.append(v2.RandAugment(num_ops=operations, magnitude=magnitude, interpolation=bilinear))
    if colour_jitter is not None:
        steps.append(v2.ColorJitter(*colour_jitter))
    return v2.Compose(steps) if steps else None


def apply_augmentation(
    pixels: UInt8[torch.Tensor, "3 h w"], augment: torch.nn.Module | None, seed: int
) -> UInt8[torch.Tensor, "3 h w"]:
    if augment is None:
        return pixels
    with seeded(seed):  # torchvision's operations use the global generators
        return pil_to_tensor(augment(to_pil_image(pixels)))


def check_decoder(decoder: str) -> str:
    if decoder not in DECODERS:
        raise UserError(f"decoder={decoder!r} of a transform: choose {' or '.join(DECODERS)}")
    if decoder == "torchcodec":
        torchcodec_decoder()
    return decoder
