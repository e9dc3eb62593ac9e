"""Which part of a photo is used, at which size; and from a photo to those pixels, decoding no more than needed.

A large JPEG is decoded at 1/2, 1/4 or 1/8 of its sides if the part then still has the size of the view, and the part is
cropped from that; else it is decoded in full. The crop is resized by torch's bicubic kernel for bytes, which differs from
Pillow by at most one level of 255 and takes half of the time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from vlp.data.images import Photo, decode, reraise_as_image_error, to_rgb
from vlp.system.errors import UserError

BICUBIC = PIL.Image.Resampling.BICUBIC
DECODERS = ("pillow", "torchcodec")
VOID_CLASS = 255  # of pixels without a category; ignored by losses and metrics


@dataclass(frozen=True, kw_only=True)
class View:
    """left, top, width, height: pixels of the upright photo, beyond which they may reach.  size: height and width of the image
    made of them."""

    left: int | float
    top: int | float
    width: int | float
    height: int | float
    size: tuple[int, int]
    mirrored: bool = False

    @property
    def is_pixel_aligned(self) -> bool:
        return all(float(value).is_integer() for value in (self.left, self.top, self.width, self.height))

    def visible_part(self, width: int, height: int) -> tuple[View, int, int] | None:
        """Of a view that may reach beyond a photo of this size: the part inside it, not mirrored, and the pixels of the view
        at its left and top. Edges of the photo are taken to lie between two pixels of the view; None = nothing is visible."""
        left, right = (_pixel(edge - self.left, self.width, self.size[1]) for edge in (0, width))
        top, bottom = (_pixel(edge - self.top, self.height, self.size[0]) for edge in (0, height))
        if left >= right or top >= bottom:
            return None
        x0, y0 = max(self.left, 0), max(self.top, 0)
        x1, y1 = min(self.left + self.width, width), min(self.top + self.height, height)
        part = View(left=x0, top=y0, width=x1 - x0, height=y1 - y0, size=(bottom - top, right - left))
        return part, left, top

    def downscaled(self, factor: int) -> View:
        """The same view of a photo whose sides were divided by `factor`."""
        return replace(
            self, left=self.left / factor, top=self.top / factor, width=self.width / factor, height=self.height / factor
        )

    @property
    def frame(self) -> tuple[float, float, float, float]:
        """Left, top, width and height of what the image shows; a mirrored view begins at its right edge, and its width is
        negative."""
        left, width = (self.left + self.width, -self.width) if self.mirrored else (self.left, self.width)
        return float(left), float(self.top), float(width), float(self.height)

    def resample_classes(self, grid: Int[Tensor, "_ _"]) -> Int[Tensor, "h w"]:
        """From the classes of the photo's pixels to those of the view's pixels, by the nearest pixel; VOID_CLASS beyond the
        photo."""
        return self._nearest(grid[None], fill=VOID_CLASS)[0]

    def resample_masks(self, masks: Bool[Tensor, "m _ _"]) -> Bool[Tensor, "m h w"]:
        """As `resample_classes`; False beyond the photo."""
        return self._nearest(masks, fill=False)

    def _nearest(self, grids: Tensor, *, fill: int | bool) -> Tensor:
        rows, columns = (
            (first + (torch.arange(count) + 0.5) * side / count).floor().long()
            for first, side, count in ((self.top, self.height, self.size[0]), (self.left, self.width, self.size[1]))
        )
        height, width = grids.shape[1:]
        resampled = grids[:, rows.clamp(0, height - 1)][:, :, columns.clamp(0, width - 1)]
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
        resampled = resampled.where(inside, torch.tensor(fill, dtype=grids.dtype))
        return resampled.flip(2) if self.mirrored else resampled

    def project_boxes(self, corners: Sequence[Sequence[int | float]]) -> tuple[Float[Tensor, "m 4"], list[int]]:
        """The visible boxes in [0, 1] of the view, clipped to it, and their indices.

        corners: left, top, right, bottom of each box in pixels of the photo.
        """
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        offset = torch.tensor([self.left, self.top, self.left, self.top])
        boxes = ((boxes - offset) / torch.tensor([self.width, self.height] * 2)).clamp(0, 1)
        if self.mirrored:
            boxes = torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
        visible = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0]
        return boxes[visible], visible.tolist()


def _pixel(distance: int | float, side: int | float, count: int) -> int:
    """The edge between two of `count` pixels that is nearest to a distance from the first, where all are `side` long."""
    return min(max(round(distance * count / side), 0), count)


def torchcodec_decoder() -> Callable[[bytes], Tensor]:
    try:
        return importlib.import_module("torchcodec.decoders").decode_jpeg
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "decoder=torchcodec needs a torchcodec that fits this torch: run pip install 'vlp[fast]', or set decoder=pillow"
        ) from error


def to_full_image(photo: Photo, view: View) -> View:
    """From a view of the photo's region to the same view of the full photo."""
    left, top = (0, 0) if photo.region is None else photo.region[:2]
    return replace(view, left=view.left + left, top=view.top + top)


def jpeg_reduction(width: int | float, height: int | float, size: tuple[int, int]) -> int:
    """The largest of 8, 4, 2 and 1 by which width and height can be divided and still be at least `size` (height, width)."""
    return next((factor for factor in (8, 4, 2) if min(width / size[1], height / size[0]) >= factor), 1)


def render_view(photo: Photo, view: View, *, decoder: str = "pillow", reduce: bool = True) -> UInt8[Tensor, "3 h w"]:
    """The pixels of a view.  decoder: "pillow" or "torchcodec" (`pip install 'vlp[fast]'`), which decodes JPEG to the same
    pixels in less time.  reduce: whether JPEGs may be decoded at 1/2, 1/4 or 1/8 of their sides, which only Pillow can, and
    which takes less time than TorchCodec in full size.  Raises ImageError."""
    view = to_full_image(photo, view)
    jpeg = photo.format == "JPEG"
    factor = jpeg_reduction(view.width, view.height, view.size) if reduce and jpeg else 1
    if photo.needs_rotation and any(side % factor for side in photo.full_size):
        factor = (
            1  # a reduced photo has incomplete pixels at its right and bottom, which the rotation would move elsewhere
        )
    if decoder == "torchcodec" and factor == 1 and jpeg and view.is_pixel_aligned and photo.image.mode in ("RGB", "L"):
        with reraise_as_image_error(photo.source):  # Pillow decodes CMYK and all other formats
            return crop_and_resize(torchcodec_decoder()(photo.encoded), view)
    image = to_rgb(decode(photo, reduced=factor))
    if image.size != photo.full_size:
        view = view.downscaled(factor)
    if not view.is_pixel_aligned:
        return pil_to_tensor(resize_view(image, view))
    return crop_and_resize(torch.from_numpy(np.array(image)).permute(2, 0, 1), view)


def render_padded(
    photo: Photo, view: View, *, fill: Sequence[int], decoder: str = "pillow", reduce: bool = True
) -> UInt8[Tensor, "3 h w"]:
    """As `render_view`, of a view that may reach beyond the photo, or its region: there the pixels have the colour `fill`."""
    pixels = torch.tensor(fill, dtype=torch.uint8)[:, None, None].repeat(1, *view.size)
    if (found := view.visible_part(*photo.size)) is not None:
        part, left, top = found
        rows, columns = part.size
        pixels[:, top : top + rows, left : left + columns] = render_view(photo, part, decoder=decoder, reduce=reduce)
    return pixels.flip(-1) if view.mirrored else pixels


def resize_padded(
    image: PIL.Image.Image, view: View, *, fill: Sequence[int], resample: PIL.Image.Resampling = BICUBIC
) -> PIL.Image.Image:
    """The same of a decoded RGB image, by Pillow."""
    canvas = PIL.Image.new("RGB", view.size[::-1], tuple(fill))
    if (found := view.visible_part(*image.size)) is not None:
        part, left, top = found
        canvas.paste(resize_view(image, part, resample), (left, top))
    return canvas.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if view.mirrored else canvas


def resize_view(image: PIL.Image.Image, view: View, resample: PIL.Image.Resampling = BICUBIC) -> PIL.Image.Image:
    """The view of a decoded RGB image, by Pillow."""
    box = (
        view.left, view.top, min(view.left + view.width, image.width), min(view.top + view.height, image.height)
    )  # fmt: skip
    resized = image.resize((view.size[1], view.size[0]), resample, box=box)
    return resized.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if view.mirrored else resized


def crop_and_resize(pixels: UInt8[Tensor, "3 _ _"], view: View) -> UInt8[Tensor, "3 h w"]:
    """The view of a full photo's pixels; it must be aligned to pixels."""
    top, left = int(view.top), int(view.left)
    pixels = pixels[:, top : top + int(view.height), left : left + int(view.width)]
    if pixels.shape[-2:] != view.size:
        pixels = F.interpolate(pixels[None], view.size, mode="bicubic", antialias=True)[0]
    return pixels.flip(-1) if view.mirrored else pixels.contiguous()
