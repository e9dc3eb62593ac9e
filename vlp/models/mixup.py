"""Mixup (Zhang et al., arXiv:1710.09412): each image and its target mixed with those of another one of the batch.

The share and the partner depend on the samples' seeds alone: the partner is the next image of the batch of all ranks in the order
of their seeds. So several processes mix what one would.
"""

from __future__ import annotations

import random

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlp import distributed
from vlp.random import mix, mix_rows
from vlp.structures import Image
from vlp.system.errors import UserError

ORDER_KEY, SHARE_KEY = 5, 6  # what a random number is for, mixed into the sample's seed


def mixup(
    image: Image, targets: Float[Tensor, "b c"], seed: Int[Tensor, " b"], alpha: float
) -> tuple[Image, Float[Tensor, "b c"]]:
    """Shares are drawn from Beta(alpha, alpha). Pixels are mixed as they are, before the tower's normalisation, and rounded where
    they are whole numbers.  Raises UserError for images of several sizes."""
    if image.size is not None:
        raise UserError("mixup needs images of one size: use a transform with a fixed image_size, or mixup=0")
    first = distributed.row_offset(seed)
    order = mix_rows(distributed.gather(seed), ORDER_KEY).argsort(stable=True)
    following = torch.empty_like(order)
    following[order] = order.roll(-1)
    partner = following[first : first + len(seed)]
    shares = [random.Random(mix(number, SHARE_KEY)).betavariate(alpha, alpha) for number in seed.tolist()]
    share = torch.tensor(shares, dtype=targets.dtype, device=targets.device)[:, None]
    pixels = image.pixels
    wide = pixels.float() if pixels.dtype == torch.uint8 else pixels
    of_pixels = share.to(wide.dtype)[:, :, None, None]
    mixed = of_pixels * wide + (1 - of_pixels) * distributed.fetch(pixels, partner).to(wide.dtype)
    if pixels.dtype == torch.uint8:
        mixed = mixed.round().to(torch.uint8)
    return Image(pixels=mixed), share * targets + (1 - share) * distributed.fetch(targets, partner)
