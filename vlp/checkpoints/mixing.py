"""Weights between two checkpoints of one architecture, θ = (1 − α) θ₀ + α θ₁ (WiSE-FT: Wortsman et al., arXiv:2109.01903)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from vlp.checkpoints.checkpoint import Checkpoint
from vlp.system.errors import UserError


def mix_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: int | float) -> dict[str, Tensor]:
    """share: α, of the second.  Whole numbers, such as counts of batches, are those of the nearer side.  0 and 1 give the very
    tensors of one side.  Raises UserError where names or shapes differ."""
    if first.keys() != second.keys():
        different = sorted(first.keys() ^ second.keys())
        raise UserError(
            f"the checkpoints have different parts, such as {', '.join(different[:3])}: mix two of one architecture, such as a "
            "model and the same one fine-tuned"
        )
    mixed = {}
    for name, before in first.items():
        after = second[name]
        if before.shape != after.shape:
            raise UserError(
                f"{name} has shape {tuple(before.shape)} in one checkpoint and {tuple(after.shape)} in the other"
            )
        if share in (0, 1) or not before.is_floating_point():
            mixed[name] = before if share < 0.5 else after
        else:
            wide = before.double() * (1 - share) + after.double() * share
            mixed[name] = wide.to(torch.promote_types(before.dtype, after.dtype))
    return mixed


def mix_checkpoints(first: Checkpoint, second: Checkpoint, share: int | float) -> Checkpoint:
    """Everything but the weights is the second's. Heads and a momentum copy that only one of the two has are left as they are.
    Raises UserError for a share outside [0, 1], and where the architectures or the tokenizers differ."""
    check_share(share)
    if first.tokenizer_json and second.tokenizer_json and first.tokenizer_json != second.tokenizer_json:
        raise UserError("the checkpoints have different tokenizers, so their word embeddings mean different words")
    common = first.heads.keys() & second.heads.keys()
    heads = mix_tensors({key: first.heads[key] for key in common}, {key: second.heads[key] for key in common}, share)
    return dataclasses.replace(
        second,
        state=mix_tensors(first.state, second.state, share),
        heads={**first.heads, **second.heads, **heads},
        config=second.config | {"objectives": {**_nodes(first), **_nodes(second)}},
        momentum={},
        tokenizer_json=second.tokenizer_json or first.tokenizer_json,
    )


def check_share(share: int | float) -> None:
    if not 0 <= share <= 1:
        raise UserError(
            f"a share of {share:g} is not between the checkpoints: give a number from 0 (the first) to 1 (the second)"
        )


def _nodes(checkpoint: Checkpoint) -> dict[str, object]:
    return checkpoint.config.get("objectives") or {}
