"""From a decoded image to uint8 pixels [3 h w]; the tower normalises them.

`EvalTransform(mode="clip")` is OpenAI's preprocessing to the bit, in its order: bicubic resize of the shorter side,
centre crop, and only then RGB (so a palette image is resized by nearest neighbour, as Pillow does to palettes).
Random draws come from torch's global generator, which the data set seeds for each sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import PIL.Image
import torch
from jaxtyping import UInt8
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from vlp.data.images import ImageError, eight_bit, to_rgb

BICUBIC = v2.InterpolationMode.BICUBIC
LONGEST = 16  # sides of an image above this ratio are cut first: 1 x 4000 would become 224 x 896,000


class TrainTransform:
    """Random resized crop, then what is asked for.

    crop_scale: area of the crop as a fraction of the image; crop_ratio: its width over its height. flip: leave it off
    where captions speak of left and right. rand_augment: (operations, magnitude), for example (2, 9) (Cubuk et al.,
    "RandAugment", 2020). colour_jitter: (brightness, contrast, saturation, hue). decode_side: see `open_image`.
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
        decode_side: int | None = None,
    ) -> None:
        self.image_size = image_size
        self.decode_side = decode_side
        steps: list[torch.nn.Module] = [
            v2.RandomResizedCrop(image_size, scale=tuple(crop_scale), ratio=tuple(crop_ratio), interpolation=BICUBIC)
        ]
        if flip:
            steps.append(v2.RandomHorizontalFlip())
        if rand_augment is not None:
            operations, magnitude = rand_augment
            steps.append(
                v2.RandAugment(num_ops=operations, magnitude=magnitude, interpolation=v2.InterpolationMode.BILINEAR)
            )
        if colour_jitter is not None:
            steps.append(v2.ColorJitter(*colour_jitter))
        self.steps = v2.Compose(steps)

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        return pil_to_tensor(self.steps(to_rgb(image)))


class EvalTransform:
    """mode "clip": shorter side to `image_size`, then the centre; "squash": the whole image made square."""

    decode_side = None  # evaluation always decodes in full

    def __init__(self, *, image_size: int, mode: str = "clip") -> None:
        if mode not in ("clip", "squash"):
            raise ValueError(f"unknown mode {mode!r} of EvalTransform: choose clip or squash")
        self.image_size = image_size
        self.mode = mode
        squash = [v2.Resize((image_size, image_size), interpolation=BICUBIC)]
        clip = [v2.Resize(image_size, interpolation=BICUBIC), v2.CenterCrop(image_size)]
        self.steps = v2.Compose(clip if mode == "clip" else squash)

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        image = eight_bit(image)
        shorter = min(image.size)
        if self.mode == "clip" and max(image.size) > LONGEST * shorter:
            image = v2.CenterCrop([min(side, LONGEST * shorter) for side in (image.height, image.width)])(image)
        return pil_to_tensor(to_rgb(self.steps(image)))


class MinMaxTransform:
    """Keeps the image's shape: the shorter side becomes `image_size`, unless the longer one would pass `longest`; then both
    sides are cut down to multiples of `multiple`, so the shape changes a little (ViLT, arXiv:2102.03334, §4.1;
    dandelin/ViLT vilt/transforms/utils.py `MinMaxResize`).

    longest: None = 1333/800 of `image_size`, as in object detection.  rand_augment: (operations, magnitude), in training.
    decode_side: see `open_image`.
    """

    def __init__(
        self,
        *,
        image_size: int = 384,
        longest: int | None = None,
        multiple: int = 32,
        rand_augment: Sequence[int] | None = None,
        decode_side: int | None = None,
    ) -> None:
        self.image_size, self.multiple, self.decode_side = image_size, multiple, decode_side
        self.longest = int(1333 / 800 * image_size) if longest is None else longest
        self.augment: torch.nn.Module = torch.nn.Identity()
        if rand_augment is not None:
            operations, magnitude = rand_augment
            self.augment = v2.RandAugment(
                num_ops=operations, magnitude=magnitude, interpolation=v2.InterpolationMode.BILINEAR
            )

    def __call__(self, image: PIL.Image.Image) -> UInt8[torch.Tensor, "3 h w"]:
        """Raises ImageError where the shorter side would vanish."""
        image = to_rgb(image)
        scale = self.image_size / min(image.size)
        sides = [self.image_size if side == min(image.size) else scale * side for side in image.size]
        if max(sides) > self.longest:
            scale = self.longest / max(sides)
            sides = [scale * side for side in sides]
        width, height = (int(side + 0.5) // self.multiple * self.multiple for side in sides)
        if not width or not height:
            raise ImageError(
                f"image of {image.width} x {image.height} pixels: too narrow, as a side of {min(sides):.0f} pixels is left "
                f"of which multiples of {self.multiple} are kept"
            )
        return pil_to_tensor(self.augment(image).resize((width, height), PIL.Image.Resampling.BICUBIC))
