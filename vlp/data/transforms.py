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

from vlp.data.images import ImageError, Photo, decode_region, to_eight_bit, to_rgb, to_rgb_on_white
from vlp.data.view import BICUBIC, DECODERS, View, jpeg_reduction, render_view, resize_view, torchcodec_decoder
from vlp.random import seeded
from vlp.structures import height_and_width
from vlp.system.errors import UserError

MAX_SIDE_RATIO = 16  # a longer image is not resized as a whole: 1 x 4000 would become 224 x 896,000
_BEFORE_RESIZING = {"last": to_eight_bit, "first": to_rgb, "on_white": to_rgb_on_white}
RESAMPLING = {kind.name.lower(): kind for kind in PIL.Image.Resampling}


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
    """mode "clip": shorter side to `resize`, then a centre crop; "squash": both sides to `resize`, then a centre crop where that
    is larger than the image.

    image_size, resize: pixels, one side or [height, width]; resize None = `image_size` ("clip": the smallest that covers it).
    interpolation: Pillow's, bicubic or another.  Images are always decoded in full, by Pillow.
    crop_offset: an offset of half a pixel is rounded to the even one ("round": torchvision, and with it OpenAI, open_clip and
    timm) or to the smaller one ("floor": transformers).
    rgb: when an image is converted to RGB: "last", after it is resized (OpenAI, open_clip), "first", before it (ALBEF, BLIP), or
    "on_white", before it and with white behind transparency (transformers). Images with a palette or transparency differ.
    """

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
        for name, value, choices in (
            ("mode", mode, ("clip", "squash")),
            ("interpolation", interpolation, tuple(RESAMPLING)),
            ("crop_offset", crop_offset, ("round", "floor")),
            ("rgb", rgb, tuple(_BEFORE_RESIZING)),
        ):
            if value not in choices:
                raise UserError(f"unknown {name} {value!r} of EvalTransform: choose {' or '.join(choices)}")
        self.image_size, self.mode, self.resample = image_size, mode, RESAMPLING[interpolation]
        self.size = height_and_width(image_size)
        self.crop_offset, self.rgb = crop_offset, rgb
        self.resize = None if resize is None else height_and_width(resize)
        if self.resize is not None and any(side < needed for side, needed in zip(self.resize, self.size, strict=True)):
            raise UserError(f"resize={resize} of EvalTransform: give at least image_size={image_size}")
        if mode == "clip" and self.resize is not None and self.resize[0] != self.resize[1]:
            raise UserError(f"resize={resize} of EvalTransform with mode=clip: give one number, of the shorter side")

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width before the crop."""
        if self.mode == "squash":
            return self.resize or self.size
        if self.resize is None and self.size[0] != self.size[1]:  # open_clip's rule: what just covers an oblong image
            scale = min(height / self.size[0], width / self.size[1])
            return round(height / scale), round(width / scale)
        shorter = (self.resize or self.size)[0]
        longer = int(shorter * max(width, height) / min(width, height))
        return (shorter, longer) if height <= width else (longer, shorter)

    def _cropped_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in pixels of the photo, of what is seen."""
        resized = self._resized_size(width, height)
        left, top, right, bottom = self._crop(*resized)
        x0, x1 = (x * width / resized[1] for x in (left, right))
        y0, y1 = (y * height / resized[0] for y in (top, bottom))
        return x0, y0, x1, y1

    def _crop(self, height: int, width: int) -> tuple[int, int, int, int]:
        top, left = (
            side // 2 if self.crop_offset == "floor" else round(side / 2)
            for side in (height - self.size[0], width - self.size[1])
        )
        return left, top, left + self.size[1], top + self.size[0]

    def choose_view(self, width: int, height: int, rng: random.Random) -> View:
        left, top, right, bottom = self._cropped_box(width, height)
        return View(left=left, top=top, width=right - left, height=bottom - top, size=self.size)

    def render(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        return self(decode_region(photo)), self.choose_view(*photo.size, random.Random(seed))

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        image = _BEFORE_RESIZING[self.rgb](image)
        height, width = self._resized_size(*image.size)
        if max(height, width) > MAX_SIDE_RATIO * max(self.size):  # the same pixels, without those that are cropped away
            box = self._cropped_box(*image.size)
            image = image.resize(self.size[::-1], self.resample, box=box)
        else:
            image = image.resize((width, height), self.resample).crop(self._crop(height, width))
        return pil_to_tensor(to_rgb(image))


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
