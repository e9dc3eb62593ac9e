"""Word-patch alignment: how far apart are the words of a text and the patches of an image, under the best transport?

Chen et al., arXiv:1909.11740, §3.2 (words and regions); Kim et al., arXiv:2102.03334, §3.2; dandelin/ViLT
vilt/modules/objectives.py. The distance of a pair is the cost of moving the words onto the patches, one minus their
cosine, under a plan found by inexact proximal optimal transport (Xie et al., arXiv:1802.04307, algorithm 1); the plan has
no gradient. Matched pairs are drawn together and unmatched ones apart. As in ViLT about half of the pairs are unmatched;
here a text's coin and its other image, drawn from all ranks, depend on the sample's seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.distributed import gather, joint_mean, offset
from vlp.models.tokens import fetch_tokens, real_mask
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, turns
from vlp.objectives.itm import draw
from vlp.random import mix_rows
from vlp.structures import Batch, Features, Loss, Tokens
from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer


@torch.no_grad()
def transport_plan(
    cost: Float[Tensor, "b n m"], real: Bool[Tensor, "b n m"], *, beta: float = 0.5, iterations: int = 50
) -> Float[Tensor, "b n m"]:
    """Of equal shares of the real rows onto equal shares of the real columns; zero elsewhere.

    beta: weight of the proximal term; smaller ones come closer to the optimum and lose digits.
    """
    row_real, column_real = real.any(2), real.any(1)
    rows, columns = (side.sum(1, keepdim=True).clamp(min=1) for side in (row_real, column_real))
    kernel, plan = (-cost / beta).exp() * real, real.to(cost.dtype)
    row_scale = row_real / rows.to(cost.dtype)
    for _ in range(iterations):
        moved = kernel * plan
        column_scale = _inverse(columns * einsum(moved, row_scale, "b n m, b n -> b m"))
        row_scale = _inverse(rows * einsum(moved, column_scale, "b n m, b m -> b n"))
        plan = row_scale[:, :, None] * moved * column_scale[:, None, :]
    return plan


def _inverse(x: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Zero where there is nothing to divide by."""
    return torch.where(x > 0, 1 / x, 0.0)


def transport_distance(
    words: Float[Tensor, "b n d"], patches: Float[Tensor, "b m d"],
    word_real: Bool[Tensor, "b n"], patch_real: Bool[Tensor, "b m"], *, beta: float = 0.5, iterations: int = 50,
) -> Float[Tensor, " b"]:  # fmt: skip
    """In [0, 2], computed in at least float32; 0 where there is no word."""
    with torch.autocast(words.device.type, enabled=False):
        words, patches = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (words, patches))
        cosine = einsum(F.normalize(words, dim=-1), F.normalize(patches, dim=-1), "b n d, b m d -> b n m")
        real = word_real[:, :, None] & patch_real[:, None, :]
        cost = (1 - cosine) * real
        plan = transport_plan(cost, real, beta=beta, iterations=iterations)
        return (cost * plan).sum((1, 2))


class WPA(Objective):
    """beta, iterations: see `transport_plan`. It fuses its own pairs, besides those of image-text matching."""

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
        self.ends = True

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer | None, data: Any) -> None:
        self.ends = tokenizer is None or tokenizer.add_end

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        text, memory, owner = features.text, features.memory, features.owner
        assert text is not None
        assert owner is not None
        if not isinstance(memory, Tokens):
            raise UserError("wpa compares states of text and image in one sequence: set model/fusion=single_stream")
        index, matched = _pairs(batch, owner)
        return self.loss(model, text, fetch_tokens(memory, index), matched)

    def loss(self, model: VisionLanguageModel, text: Tokens, image: Tokens, matched: Bool[Tensor, " r"]) -> Loss:
        """Of given pairs: the mean of the matched ones' distances and the others' with a minus."""
        distance = self.distance(model.fuse(text, image), text, image)
        logs = {
            name: joint_mean(distance.detach()[kind].sum(), int(kind.sum()))
            for name, kind in (("matched_distance", matched), ("unmatched_distance", ~matched))
        }
        signed = torch.where(matched, distance, -distance)
        return Loss(value=joint_mean(signed.sum(), len(signed)), logs=logs)

    def distance(self, fused: Tokens, text: Tokens, image: Tokens) -> Float[Tensor, " r"]:
        """Start and end token are no words, and what stands before the image's raster (the class token) is no patch."""
        length = text.states.shape[1]
        if fused.states.shape[1] != length + image.states.shape[1]:
            raise UserError("wpa compares states of text and image in one sequence: set model/fusion=single_stream")
        words, patches = real_mask(text).clone(), real_mask(image).clone()
        last = words.sum(1, keepdim=True).clamp(min=1) - 1
        if self.ends:
            words = words.scatter(1, last, False)
        words[:, 0] = False
        patches[:, : _before_raster(image)] = False
        return transport_distance(
            fused.states[:, :length], fused.states[:, length:], words, patches,
            beta=self.beta, iterations=self.iterations,
        )  # fmt: skip


def _pairs(batch: Batch, owner: Int[Tensor, " r"]) -> tuple[Int[Tensor, " r"], Bool[Tensor, " r"]]:
    """For each text an image of all ranks, and whether it is the text's own: by a coin, and where there is no other."""
    own, ids = batch.id[owner], gather(batch.id)
    even = torch.zeros(len(owner), len(ids), device=owner.device)
    other, has_other = draw(even, own[:, None] != ids[None, :], mix_rows(batch.seed[owner], 1, turns(owner)))
    matched = (mix_rows(batch.seed[owner], 2, turns(owner)) % 2 == 0) | ~has_other
    return torch.where(matched, owner + offset(batch.id), other), matched


def _before_raster(tokens: Tokens) -> int:
    return 1 if tokens.grid is None else tokens.states.shape[1] - tokens.grid[0] * tokens.grid[1]
