"""Which part of a photo is seen, at which size; and from a photo to those pixels, decoding no more than they need.

A large JPEG is decoded at 1/2, 1/4 or 1/8 of its sides where the part keeps the size that is asked for, and the part is
cut out of that; else it is decoded in full, and its part resized by torch's bicubic kernel for bytes, which gives
Pillow's result to one level in half of the time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from vlp.data.images import Photo, decode, open_image, to_rgb, told
from vlp.data.issues import DataError
from vlp.structures import Sample
from vlp.system.errors import UserError

BICUBIC = PIL.Image.Resampling.BICUBIC
DECODERS = ("pillow", "torchcodec")
VOID = 255  # of pixels without a category


@dataclass(frozen=True, kw_only=True)
class View:
    """left, top, width, height: pixels of the upright photo.  size: height and width of what is made of them."""

    left: int | float
    top: int | float
    width: int | float
    height: int | float
    size: tuple[int, int]
    mirrored: bool = False

    @property
    def whole_pixels(self) -> bool:
        return all(float(value).is_integer() for value in (self.left, self.top, self.width, self.height))

    def reduced(self, part: int) -> View:
        """The same of a photo whose sides were divided by `part`."""
        return replace(
            self, left=self.left / part, top=self.top / part, width=self.width / part, height=self.height / part
        )

    def classes(self, grid: Int[Tensor, "_ _"]) -> Int[Tensor, "h w"]:
        """A class for each pixel of the photo as one for each pixel of the view: that of the nearest."""
        rows, columns = (
            (first + (torch.arange(count) + 0.5) * side / count).long()
            for first, side, count in ((self.top, self.height, self.size[0]), (self.left, self.width, self.size[1]))
        )
        seen = grid[rows][:, columns]
        return seen.flip(1) if self.mirrored else seen

    def boxes(self, corners: Sequence[Sequence[int | float]]) -> tuple[Float[Tensor, "m 4"], list[int]]:
        """Boxes (left, top, right, bottom in pixels of the photo) in [0, 1] of the view, cut off at its border; and which
        of them are to be seen in it at all."""
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        offset = torch.tensor([self.left, self.top, self.left, self.top])
        boxes = ((boxes - offset) / torch.tensor([self.width, self.height] * 2)).clamp(0, 1)
        if self.mirrored:
            boxes = torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
        seen = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0]
        return boxes[seen], seen.tolist()


def torchcodec_decoder() -> Callable[[bytes], Tensor]:
    try:
        return importlib.import_module("torchcodec.decoders").decode_jpeg
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "decoder=torchcodec: pip install 'vlp[fast]' brings a torchcodec that fits this torch; decoder=pillow needs nothing"
        ) from error


def in_whole(photo: Photo, view: View) -> View:
    """A view of the photo's region as one of the whole photo."""
    left, top = (0, 0) if photo.region is None else photo.region[:2]
    return replace(view, left=view.left + left, top=view.top + top)


def reduction(width: int | float, height: int | float, size: tuple[int, int]) -> int:
    """The largest of 8, 4, 2 and 1 by which a part of a photo can be made smaller and still has the size that is asked for."""
    return next((p for p in (8, 4, 2) if min(width / size[1], height / size[0]) >= p), 1)


def see(photo: Photo, view: View, *, decoder: str = "pillow", reduce: bool = True) -> UInt8[Tensor, "3 h w"]:
    """reduce: whether JPEGs may be decoded at a part of their size, which Pillow alone can, in less time than it takes
    TorchCodec to decode all of them.  Raises ImageError."""
    view = in_whole(photo, view)
    jpeg = photo.kind == "JPEG"
    part = reduction(view.width, view.height, view.size) if reduce and jpeg else 1
    if photo.turned and any(side % part for side in photo.whole):
        part = 1  # the incomplete pixels of the reduced photo lie at its own right and bottom, wherever these are turned to
    if decoder == "torchcodec" and part == 1 and jpeg and photo.image.mode in ("RGB", "L"):
        with told(photo.place):  # CMYK and all other formats are Pillow's
            return resized(torchcodec_decoder()(photo.data), view)
    image = to_rgb(decode(photo, reduced=part))
    if image.size != photo.whole:
        view = view.reduced(part)
    if not view.whole_pixels:
        return pil_to_tensor(see_image(image, view))
    return resized(torch.from_numpy(np.array(image)).permute(2, 0, 1), view)


def see_image(image: PIL.Image.Image, view: View) -> PIL.Image.Image:
    """The same of an RGB image, by Pillow alone."""
    box = (
        view.left, view.top, min(view.left + view.width, image.width), min(view.top + view.height, image.height)
    )  # fmt: skip
    seen = image.resize((view.size[1], view.size[0]), BICUBIC, box=box)
    return seen.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if view.mirrored else seen


def resized(pixels: UInt8[Tensor, "3 _ _"], view: View) -> UInt8[Tensor, "3 h w"]:
    """Of a whole photo, what is seen."""
    top, left = int(view.top), int(view.left)
    pixels = pixels[:, top : top + int(view.height), left : left + int(view.width)]
    if pixels.shape[-2:] != view.size:
        pixels = F.interpolate(pixels[None], view.size, mode="bicubic", antialias=True)[0]
    return pixels.flip(-1) if view.mirrored else pixels.contiguous()


def class_map(sample: Sample, size: tuple[int | float, int | float] | None = None) -> UInt8[np.ndarray, "h w"]:
    """The category of every pixel, VOID where there is none.  size: of the photo, width and height, to be checked.

    DataError where the picture is of another size or no RGB, ImageError where it cannot be read."""
    assert sample.panoptic is not None, "the sample has no panoptic segmentation"
    picture = open_image(sample.panoptic)
    if picture.mode != "RGB":
        message = f"{sample.panoptic}: segments are told by red, green and blue, and its mode is {picture.mode}"
        raise DataError("segmentation without colours", message)
    if size is not None and picture.size != size:
        told = f"{picture.width} × {picture.height} pixels, where the photo has {size[0]:g} × {size[1]:g}"
        raise DataError("segmentation of another size", f"{sample.panoptic}: {told}")
    numbers = np.asarray(picture).astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], dtype=np.uint32)
    found, place = np.unique(numbers, return_inverse=True)
    category = dict(sample.segments)
    classes = np.array([category.get(number, VOID) for number in found.tolist()], dtype=np.uint8)
    return classes[place].reshape(numbers.shape)
