"""Logits of an image that is larger than a tower takes: windows over it, whose logits are averaged where they overlap
(mmsegmentation's `mode="slide"`, mmseg/models/segmentors/encoder_decoder.py)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vlp.structures import Image
from vlp.system.errors import UserError


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Along one side; the last window ends at the image's end."""
    if length < window:
        raise UserError(
            f"an image of {length} pixels is smaller than the window of {window}: use a larger image or no window"
        )
    starts = [*range(0, length - window, stride), length - window]
    return list(dict.fromkeys(starts))


def sliding_logits(
    predict: Callable[[Image], Float[Tensor, "b c _ _"]],
    image: Image,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
) -> Float[Tensor, "b c h w"]:
    """At the size of the image.  predict: logits of windows of that size, at any size of their own.  window, stride: height and
    width in pixels.  A padded image has windows of the padded size."""
    height, width = image.pixels.shape[-2:]
    summed: Tensor | None = None
    counts = torch.zeros(height, width, device=image.pixels.device)
    for top in window_starts(height, window[0], stride[0]):
        for left in window_starts(width, window[1], stride[1]):
            rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
            logits = F.interpolate(predict(Image(pixels=image.pixels[..., rows, columns])), window, mode="bilinear")
            if summed is None:
                summed = logits.new_zeros(*logits.shape[:2], height, width)
            summed[..., rows, columns] += logits
            counts[rows, columns] += 1
    assert summed is not None
    return summed / counts.to(summed)
