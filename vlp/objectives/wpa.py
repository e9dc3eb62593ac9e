"""Word-patch alignment: the optimal transport distance between the words of a text and the patches of an image.

Chen et al., arXiv:1909.11740, §3.2 (words and regions); Kim et al., arXiv:2102.03334, §3.2; dandelin/ViLT
vilt/modules/objectives.py. The distance of a pair is the cost of moving the words onto the patches, one minus their
cosine, under a plan from inexact proximal optimal transport (Xie et al., arXiv:1802.04307, algorithm 1); the plan has no
gradient. The loss decreases the distance of matched pairs and increases that of unmatched ones. As in ViLT about half of
the pairs are unmatched; here which they are, and their images from all ranks, depend on the sample's seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.distributed import gather, mean_over_ranks, row_offset
from vlp.models.tokens import fetch_tokens, real_mask
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, position_within_image
from vlp.objectives.itm import sample_negatives
from vlp.random import mix_rows
from vlp.structures import Batch, Features, Loss, Tokens, require
from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer

_NEEDS_SINGLE_STREAM = "wpa needs text and image states in one sequence: set model/fusion=single_stream"


@torch.no_grad()
def transport_plan(
    cost: Float[Tensor, "b n m"], mask: Bool[Tensor, "b n m"], *, beta: float = 0.5, iterations: int = 50
) -> Float[Tensor, "b n m"]:
    """From equal masses on the rows to equal masses on the columns, where `mask` is true; zero elsewhere.

    beta: weight of the proximal term; a smaller one comes closer to the optimum but loses floating-point precision.
    """
    row_mask, column_mask = mask.any(2), mask.any(1)
    rows, columns = (side.sum(1, keepdim=True).clamp(min=1) for side in (row_mask, column_mask))
    kernel, plan = (-cost / beta).exp() * mask, mask.to(cost.dtype)
    row_scale = row_mask / rows.to(cost.dtype)
    for _ in range(iterations):
        weighted = kernel * plan
        column_scale = _reciprocal_or_zero(columns * einsum(weighted, row_scale, "b n m, b n -> b m"))
        row_scale = _reciprocal_or_zero(rows * einsum(weighted, column_scale, "b n m, b m -> b n"))
        plan = row_scale[:, :, None] * weighted * column_scale[:, None, :]
    return plan


def _reciprocal_or_zero(x: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    return torch.where(x > 0, 1 / x, 0.0)


def transport_distance(
    words: Float[Tensor, "b n d"], patches: Float[Tensor, "b m d"],
    word_mask: Bool[Tensor, "b n"], patch_mask: Bool[Tensor, "b m"], *, beta: float = 0.5, iterations: int = 50,
) -> Float[Tensor, " b"]:  # fmt: skip
    """In [0, 2], computed in at least float32; 0 for a text without words."""
    with torch.autocast(words.device.type, enabled=False):
        words, patches = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (words, patches))
        cosine = einsum(F.normalize(words, dim=-1), F.normalize(patches, dim=-1), "b n d, b m d -> b n m")
        mask = word_mask[:, :, None] & patch_mask[:, None, :]
        cost = (1 - cosine) * mask
        plan = transport_plan(cost, mask, beta=beta, iterations=iterations)
        return (cost * plan).sum((1, 2))


class WPA(Objective):
    """beta, iterations: see `transport_plan`. Its pairs are fused in addition to those of image-text matching."""

    requires = ("image", "caption")
    needs = ("vision", "text", "fusion")
    uses = ("text", "memory")
    in_batch = True

    def __init__(
        self,
        *,
        beta: float = 0.5,
        iterations: int = 50,
        weight: float | list[list[float]] = 0.1,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        self.beta, self.iterations = beta, iterations
        self.has_end_token = True

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer | None, data: Any) -> None:
        self.has_end_token = tokenizer is None or tokenizer.add_end

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        text, memory = require(features.text), features.memory
        if not isinstance(memory, Tokens):
            raise UserError(_NEEDS_SINGLE_STREAM)
        index, matched = _sample_pairs(batch, require(features.owner))
        return self.loss(model, text, fetch_tokens(memory, index), matched)

    def loss(self, model: VisionLanguageModel, text: Tokens, image: Tokens, matched: Bool[Tensor, " r"]) -> Loss:
        """Of pairs (text i, image i): the mean of the distances, those of unmatched pairs with a minus."""
        distance = self.distance(model.fuse(text, image), text, image)
        logs = {
            name: mean_over_ranks(distance.detach()[rows].sum(), int(rows.sum()))
            for name, rows in (("matched_distance", matched), ("unmatched_distance", ~matched))
        }
        signed = torch.where(matched, distance, -distance)
        return Loss(value=mean_over_ranks(signed.sum(), len(signed)), logs=logs)

    def distance(self, fused: Tokens, text: Tokens, image: Tokens) -> Float[Tensor, " r"]:
        """Between words and patches: the start and end tokens are not words, and tokens before the image's patches (the class
        token) are not patches."""
        length = text.states.shape[1]
        if fused.states.shape[1] != length + image.states.shape[1]:
            raise UserError(_NEEDS_SINGLE_STREAM)
        word_mask, patch_mask = real_mask(text).clone(), real_mask(image).clone()
        last = word_mask.sum(1, keepdim=True).clamp(min=1) - 1
        if self.has_end_token:
            word_mask = word_mask.scatter(1, last, False)
        word_mask[:, 0] = False
        first_patch = 1 if image.grid is None else image.states.shape[1] - image.grid[0] * image.grid[1]
        patch_mask[:, :first_patch] = False
        return transport_distance(
            fused.states[:, :length], fused.states[:, length:], word_mask, patch_mask,
            beta=self.beta, iterations=self.iterations,
        )  # fmt: skip


def _sample_pairs(batch: Batch, owner: Int[Tensor, " r"]) -> tuple[Int[Tensor, " r"], Bool[Tensor, " r"]]:
    """For each text the index of an image of all ranks, and whether it is the text's own (with probability 1/2, and where
    there is no other)."""
    text_id, image_id = batch.id[owner], gather(batch.id)
    seeds, position = batch.seed[owner], position_within_image(owner)
    uniform_logits = torch.zeros(len(owner), len(image_id), device=owner.device)
    allowed = text_id[:, None] != image_id[None, :]
    negative, has_negative = sample_negatives(uniform_logits, allowed, mix_rows(seeds, 1, position))
    matched = (mix_rows(seeds, 2, position) % 2 == 0) | ~has_negative
    return torch.where(matched, owner + row_offset(batch.id), negative), matched
