"""Which part of a photo is used, at which size; and from a photo to those pixels, decoding no more than needed.

A large JPEG is decoded at 1/2, 1/4 or 1/8 of its sides if the part then still has the size of the view, and the part is
cropped from that; else it is decoded in full. The crop is resized by torch's bicubic kernel for bytes, which differs from
Pillow by at most one level of 255 and takes half of the time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from vlp.data.images import Photo, decode, reraise_as_image_error, to_rgb
from vlp.data.placement import Placement, jpeg_reduction, resize_view
from vlp.system.errors import UserError

DECODERS = ("pillow", "torchcodec")
VOID_CLASS = 255  # of pixels without a category; ignored by losses and metrics


class View(Placement):
    """A placement with the tensors that follow it: boxes, masks and classes of pixels."""

    @classmethod
    def from_placement(cls, placement: Placement) -> View:
        return cls(**vars(placement))

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


def crop_and_resize(pixels: UInt8[Tensor, "3 _ _"], view: View) -> UInt8[Tensor, "3 h w"]:
    """The view of a full photo's pixels; it must be aligned to pixels."""
    top, left = int(view.top), int(view.left)
    pixels = pixels[:, top : top + int(view.height), left : left + int(view.width)]
    if pixels.shape[-2:] != view.size:
        pixels = F.interpolate(pixels[None], view.size, mode="bicubic", antialias=True)[0]
    return pixels.flip(-1) if view.mirrored else pixels.contiguous()
