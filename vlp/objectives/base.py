"""What an objective is: it declares the batch fields it `requires` and runs on every batch that has them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Loss
from vlp.system.errors import UserError


class Objective(nn.Module):
    """One loss of the weighted sum L = Σ_i w_i · L_i; its heads live in it.

    weight: w_i, or points [fraction of all steps, w_i] of a schedule, straight lines between them; while it is 0 the
    objective is not computed.  sources: names of the data sources that it runs on;
    None = all whose batches have the required fields.
    """

    requires: tuple[str, ...] = ()  # fields of Batch
    needs: tuple[str, ...] = ()  # parts of the model, checked before the first step
    uses: tuple[str, ...] = ()  # fields of Features; only their union over all objectives is computed
    heads: tuple[str, ...] = ()  # other objectives whose heads it uses, found in `linked`
    stored: tuple[str, ...] = ()  # constructor arguments that weights decide: in evaluation the checkpoint's are taken
    in_batch: bool = False  # the loss depends on which samples share a batch, so accumulating batches would change it

    def __init__(self, *, weight: float | list[list[float]] = 1.0, sources: Sequence[str] | None = None) -> None:
        super().__init__()
        points = weight if isinstance(weight, list) else [[0.0, weight]]
        fractions = [point[0] for point in points if isinstance(point, list) and len(point) == 2]
        whole = bool(points) and len(fractions) == len(points) and fractions == sorted(fractions)
        if not whole or not 0 <= fractions[0] <= fractions[-1] <= 1:
            raise UserError(
                f"weight={weight}: give a number, or points [fraction, weight] with fractions that rise from 0 to 1"
            )
        self.points = [(float(at), float(value)) for at, value in points]
        self.weight = max(value for _, value in self.points)  # 0 = never trained
        self.sources = None if sources is None else frozenset(sources)
        self.linked: dict[
            str, Any
        ] = {}  # objectives by name, set by the LightningModule; in a dict, so that they stay their own

    def weight_at(self, progress: float) -> float:
        """progress: the share of all optimiser steps that are done."""
        if progress <= self.points[0][0]:
            return self.points[0][1]
        for (start, before), (end, after) in pairwise(self.points):
            if progress <= end:
                return before + (after - before) * (progress - start) / max(end - start, 1e-12)
        return self.points[-1][1]

    def applies(self, batch: Batch, source: str) -> bool:
        on_source = self.sources is None or source in self.sources
        return on_source and all(getattr(batch, field) is not None for field in self.requires)

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        """Takes what it needs of the tokenizer (the mask's id; None where the data has no text) or of the data module (class
        names), before the first step."""

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        raise TypeError(f"{type(self).__name__} has no loss: give it weight 0, or choose another objective")


def ramp(alpha: float, step: int, warmup: int) -> float:
    """`alpha`, reached linearly over the first `warmup` steps."""
    return alpha * min(1.0, step / warmup) if warmup else alpha


def turns(owner: Int[Tensor, " r"]) -> Int[Tensor, " r"]:
    """Of each text, the how-manieth of its image it is; owners never fall."""
    return torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)
