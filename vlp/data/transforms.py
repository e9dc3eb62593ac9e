"""From a decoded image to uint8 pixels [3 h w]; the tower normalises them.

`EvalTransform(mode="clip")` is OpenAI's preprocessing to the bit, in its order: bicubic resize of the shorter side,
centre crop, and only then RGB (so a palette image is resized by nearest neighbour, as Pillow does to palettes).
Boxes follow the view; RandAugment, which also shears and turns, is refused for data with boxes.
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

from vlp.data.images import ImageError, Photo, eight_bit, load, to_rgb
from vlp.data.view import BICUBIC, DECODERS, View, reduction, see, see_image, torchcodec_decoder
from vlp.random import seeded
from vlp.system.errors import UserError

LONGEST = 16  # sides of an image above this ratio are cut first: 1 x 4000 would become 224 x 896,000


class Transform:
    """From a photo to uint8 pixels [3 h w]; whatever is random in it is a function of a seed."""

    shears = False  # whether things may end up where `view` does not tell

    def view(self, width: int, height: int, draws: random.Random) -> View:
        """What is seen of a photo of so many pixels."""
        raise NotImplementedError

    def look(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        """The pixels, and what they show.  Raises ImageError."""
        raise NotImplementedError


class TrainTransform(Transform):
    """Random resized crop, then what is asked for.

    crop_scale: area of the crop as a fraction of the image; crop_ratio: its width over its height. flip: leave it off
    where captions speak of left and right. rand_augment: (operations, magnitude), for example (2, 9) (Cubuk et al.,
    "RandAugment", 2020). colour_jitter: (brightness, contrast, saturation, hue). decoder, reduce: see `see`.
    """

    def __init__(
        self,
        *,
        image_size: int,
        crop_scale: Sequence[float] = (0.5, 1.0),
        crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: bool = False,
        rand_augment: Sequence[int] | None = None,
        colour_jitter: Sequence[float] | None = None,
        decoder: str = "pillow",
        reduce: bool = True,
    ) -> None:
        self.image_size, self.flip = image_size, flip
        self.crop_scale, self.crop_ratio = tuple(crop_scale), tuple(crop_ratio)
        self.decoder, self.reduce = checked(decoder), reduce
        steps: list[torch.nn.Module] = []
        self.shears = rand_augment is not None
        if rand_augment is not None:
            operations, magnitude = rand_augment
            steps.append(
                v2.RandAugment(num_ops=operations, magnitude=magnitude, interpolation=v2.InterpolationMode.BILINEAR)
            )
        if colour_jitter is not None:
            steps.append(v2.ColorJitter(*colour_jitter))
        self.augment = v2.Compose(steps) if steps else None

    def view(self, width: int, height: int, draws: random.Random) -> View:
        left, top, crop_width, crop_height = self._crop(width, height, draws)
        mirrored = self.flip and draws.random() < 0.5
        if self.reduce:  # whole pixels of the photo as it may be decoded
            part = reduction(crop_width, crop_height, (self.image_size,) * 2)
            left, top = left // part * part, top // part * part
            crop_width, crop_height = crop_width // part * part, crop_height // part * part
        return View(
            left=left, top=top, width=crop_width, height=crop_height, size=(self.image_size,) * 2, mirrored=mirrored
        )

    def _crop(self, width: int, height: int, draws: random.Random) -> tuple[int, int, int, int]:
        """Left, top, width and height, by torchvision's rule (`RandomResizedCrop.get_params`)."""
        low, high = self.crop_ratio
        for _ in range(10):
            area = width * height * draws.uniform(*self.crop_scale)
            ratio = math.exp(draws.uniform(math.log(low), math.log(high)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return draws.randint(0, width - w), draws.randint(0, height - h), w, h
        w, h = width, height  # too narrow for any draw: the largest middle part of an allowed shape
        if width / height < low:
            h = round(width / low)
        elif width / height > high:
            w = round(height * high)
        return (width - w) // 2, (height - h) // 2, w, h

    def look(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        view = self.view(*photo.size, random.Random(seed))
        return augmented(see(photo, view, decoder=self.decoder, reduce=self.reduce), self.augment, seed), view

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        """Of a decoded image, by Pillow, with draws from the global generators."""
        image = to_rgb(image)
        seen = see_image(image, self.view(*image.size, random.Random(int(torch.randint(1 << 62, ())))))
        return pil_to_tensor(seen if self.augment is None else self.augment(seen))


class EvalTransform(Transform):
    """mode "clip": shorter side to `resize` (None = `image_size`), then the centre; "squash": the whole image made square.
    interpolation: bicubic or bilinear.  Always decoded in full, by Pillow."""

    def __init__(
        self, *, image_size: int, mode: str = "clip", resize: int | None = None, interpolation: str = "bicubic"
    ) -> None:
        if mode not in ("clip", "squash"):
            raise UserError(f"unknown mode {mode!r} of EvalTransform: choose clip or squash")
        if interpolation not in ("bicubic", "bilinear"):
            raise UserError(f"unknown interpolation {interpolation!r} of EvalTransform: choose bicubic or bilinear")
        if resize is not None and (mode == "squash" or resize < image_size):
            raise UserError(f"resize={resize}: of mode clip alone, and at least image_size={image_size}")
        self.image_size, self.resize = image_size, resize or image_size
        self.mode = mode
        kind = v2.InterpolationMode(interpolation)
        squash = [v2.Resize((image_size, image_size), interpolation=kind)]
        clip = [v2.Resize(self.resize, interpolation=kind), v2.CenterCrop(image_size)]
        self.steps = v2.Compose(clip if mode == "clip" else squash)

    def view(self, width: int, height: int, draws: random.Random) -> View:
        square = (self.image_size,) * 2
        if self.mode == "squash":
            return View(left=0, top=0, width=width, height=height, size=square)
        side = min(width, height) * self.image_size / self.resize
        return View(left=(width - side) / 2, top=(height - side) / 2, width=side, height=side, size=square)

    def look(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        return self(load(photo)), self.view(*photo.size, random.Random(seed))

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        image = eight_bit(image)
        shorter = min(image.size)
        if self.mode == "clip" and max(image.size) > LONGEST * shorter:
            image = v2.CenterCrop([min(side, LONGEST * shorter) for side in (image.height, image.width)])(image)
        return pil_to_tensor(to_rgb(self.steps(image)))


class MinMaxTransform(Transform):
    """Keeps the image's shape: the shorter side becomes `image_size`, unless the longer one would pass `longest`; then both
    sides are cut down to multiples of `multiple`, so the shape changes a little (ViLT, arXiv:2102.03334, §4.1;
    dandelin/ViLT vilt/transforms/utils.py `MinMaxResize`).

    longest: None = 1333/800 of `image_size`, as in object detection.  rand_augment: (operations, magnitude), in training.
    decoder, reduce: see `see`; without them, decoded in full and resized by Pillow, as the original does.
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
        self.decoder, self.reduce = checked(decoder), reduce
        self.longest = int(1333 / 800 * image_size) if longest is None else longest
        self.augment: torch.nn.Module | None = None
        self.shears = rand_augment is not None
        if rand_augment is not None:
            operations, magnitude = rand_augment
            self.augment = v2.RandAugment(
                num_ops=operations, magnitude=magnitude, interpolation=v2.InterpolationMode.BILINEAR
            )

    def view(self, width: int, height: int, draws: random.Random) -> View:
        """Raises ImageError where the shorter side would vanish."""
        shorter = min(width, height)
        scale = self.image_size / shorter
        sides = [self.image_size if side == shorter else scale * side for side in (width, height)]
        if max(sides) > self.longest:
            scale = self.longest / max(sides)
            sides = [scale * side for side in sides]
        columns, rows = (int(side + 0.5) // self.multiple * self.multiple for side in sides)
        if not columns or not rows:
            raise ImageError(
                f"image of {width} x {height} pixels: too narrow, as a side of {min(sides):.0f} pixels is left "
                f"of which multiples of {self.multiple} are kept"
            )
        return View(left=0, top=0, width=width, height=height, size=(rows, columns))

    def look(self, photo: Photo, seed: int) -> tuple[UInt8[torch.Tensor, "3 h w"], View]:
        view = self.view(*photo.size, random.Random(seed))
        if self.decoder == "pillow" and not self.reduce:
            with seeded(seed) if self.augment is not None else nullcontext():
                return self(load(photo)), view
        return augmented(see(photo, view, decoder=self.decoder, reduce=self.reduce), self.augment, seed), view

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        """Raises ImageError where the shorter side would vanish."""
        image = to_rgb(image)
        height, width = self.view(*image.size, random.Random(0)).size
        if self.augment is not None:
            image = self.augment(image)
        return pil_to_tensor(image.resize((width, height), BICUBIC))


def augmented(
    pixels: UInt8[torch.Tensor, "3 h w"], augment: torch.nn.Module | None, seed: int
) -> UInt8[torch.Tensor, "3 h w"]:
    if augment is None:
        return pixels
    with seeded(seed):  # torchvision's operations draw from the global generators
        return pil_to_tensor(augment(to_pil_image(pixels)))


def checked(decoder: str) -> str:
    if decoder not in DECODERS:
        raise UserError(f"decoder={decoder!r} of a transform: choose {' or '.join(DECODERS)}")
    if decoder == "torchcodec":
        torchcodec_decoder()
    return decoder
