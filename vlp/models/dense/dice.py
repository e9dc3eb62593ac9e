"""The dice loss of masks (Milletari et al., arXiv:1606.04797, as in MaskFormer, arXiv:2107.06278, §3.4)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def dice_losses(logits: Float[Tensor, "m p"], truth: Float[Tensor, "m p"]) -> Float[Tensor, " m"]:
    """1 − (2 Σ s·t + 1) / (Σ s + Σ t + 1) of each mask over its p pixels or points, with s the sigmoid.  truth: from 0 to 1."""
    shown = logits.sigmoid()
    return 1 - (2 * (shown * truth).sum(1) + 1) / (shown.sum(1) + truth.sum(1) + 1)
