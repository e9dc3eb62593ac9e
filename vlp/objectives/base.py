"""What an objective is: it declares the batch fields it `requires` and runs on every batch that has them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp.distributed import mean_over_ranks
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Loss, Text, Tokens
from vlp.system.errors import UserError

SCORED_BY = ("itm", "itc", "siglip", "irtr", "filip")  # objectives that have a `score`


class Objective(nn.Module):
    """One loss of the weighted sum L = Σ_i w_i · L_i; its heads live in it.

    weight: w_i, or a schedule as points [fraction of all steps, w_i] with linear interpolation between them; while it is 0
    the objective is not computed.  sources: names of the data sources that it runs on; None = all whose batches have the
    required fields.
    """

    requires: tuple[str, ...] = ()  # fields of Batch
    needs: tuple[str, ...] = ()  # parts of the model, checked before the first step
    uses: tuple[str, ...] = ()  # fields of Features; only their union over all objectives is computed
    levels: tuple[str, ...] = ()  # modules of the vision tower whose maps it reads in `features.image.levels`
    heads: tuple[str, ...] = ()  # other objectives whose heads it uses, found in `linked`
    stored: tuple[str, ...] = ()  # constructor arguments that weights depend on: evaluation takes the checkpoint's
    in_batch: bool = False  # the loss depends on which samples share a batch, so accumulating batches would change it

    def __init__(self, *, weight: float | list[list[float]] = 1.0, sources: Sequence[str] | None = None) -> None:
        super().__init__()
        points = weight if isinstance(weight, list) else [[0.0, weight]]
        fractions = [point[0] for point in points if isinstance(point, list) and len(point) == 2]
        complete = bool(points) and len(fractions) == len(points) and fractions == sorted(fractions)
        if not complete or not 0 <= fractions[0] <= fractions[-1] <= 1:
            raise UserError(
                f"weight={weight}: give a number, or points [fraction, weight] with fractions that rise from 0 to 1"
            )
        self.points = [(float(fraction), float(value)) for fraction, value in points]
        self.weight = max(value for _, value in self.points)  # 0 = never trained
        self.sources = None if sources is None else frozenset(sources)
        # objectives by name, set by the LightningModule; in a dict, so that their weights are not registered here too
        self.linked: dict[str, Any] = {}

    def weight_at(self, progress: float) -> float:
        """progress: the share of all optimiser steps that are done."""
        if progress <= self.points[0][0]:
            return self.points[0][1]
        for (start, start_weight), (end, end_weight) in pairwise(self.points):
            if progress <= end:
                return start_weight + (end_weight - start_weight) * (progress - start) / max(end - start, 1e-12)
        return self.points[-1][1]

    def applies(self, batch: Batch, source: str) -> bool:
        """Raises UserError for one that needs images where some samples of the source have none: its rows would be others."""
        on_source = self.sources is None or source in self.sources
        partly = batch.pictured is not None and "image" in self.requires
        required = [field for field in self.requires if not (partly and field == "image")]
        applies = on_source and all(getattr(batch, field) is not None for field in required)
        if applies and partly:
            name = type(self).__name__
            raise UserError(
                f"{name} needs the image of every sample, and some of {source} have none: leave these out "
                f"(data.without_photo=leave_out), or {name} off this source (sources=[…])"
            )
        return applies

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        """Called before the first step, to read from the tokenizer (the mask's id; None where the data has no text) and from
        the data module (class names)."""

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        raise TypeError(f"{type(self).__name__} has no loss: give it weight 0, or choose another objective")

    def score(self, model: VisionLanguageModel, image: Tokens, text: Text) -> Float[Tensor, " b"]:
        """How well image i and text i go together, higher = better, with gradient to the states of both: what explanations
        differentiate.  Raises UserError where the objective gives pairs no score."""
        raise UserError(
            f"{type(self).__name__} gives an image and a text no score: {', '.join(SCORED_BY[:-1])} and {SCORED_BY[-1]} do"
        )


def linear_warmup(value: float, step: int, warmup: int) -> float:
    """From 0 linearly to `value` over the first `warmup` steps."""
    return value * min(1.0, step / warmup) if warmup else value


def paired_similarity(model: VisionLanguageModel, image: Tokens, text: Text) -> Float[Tensor, " b"]:
    """Of image i and text i: the cosine in the joint space, with the model's temperature and bias."""
    text_embed = model.embed_text(model.encode_text(text))
    return model.similarity(model.embed_image(image), text_embed).diagonal()


def position_within_image(owner: Int[Tensor, " r"]) -> Int[Tensor, " r"]:
    """0 for an image's first text, 1 for its second and so on; `owner` must be sorted."""
    return torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)


def classification_loss(
    logits: Float[Tensor, "n c"],
    label: Int[Tensor, " n"],
    soft_targets: Float[Tensor, "n c"] | None = None,
    alpha: float = 0.0,
) -> Loss:
    """Cross-entropy as the mean over the rows of all ranks, and the accuracy in percent.  soft_targets: probabilities of the
    momentum model, with which a share `alpha` of the loss is computed (Li et al., arXiv:2107.07651, equation 7)."""
    value = F.cross_entropy(logits, label, reduction="sum")
    if soft_targets is not None:
        value = (1 - alpha) * value - alpha * (logits.log_softmax(1) * soft_targets).sum()
    correct = (logits.detach().argmax(1) == label).to(value.dtype).sum()
    return Loss(value=mean_over_ranks(value, len(label)), logs={"accuracy": 100 * mean_over_ranks(correct, len(label))})
