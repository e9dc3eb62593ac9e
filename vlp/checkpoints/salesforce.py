"""What ALBEF's and BLIP's files have in common: timm's names of the vision tower, its leading dimensions, and one pointer and
one list of image ids for both queues, which are full of random features at the start."""

from __future__ import annotations

import torch

from vlp.checkpoints.keys import State, without_prefix
from vlp.system.errors import UserError

VISION = {
    "patches.*": "patch_embed.proj.*", "class_token": "cls_token", "positions": "pos_embed", "norm_post.*": "norm.*",
    "blocks.{}.norm1.*": "blocks.{}.norm1.*", "blocks.{}.attention.qkv.*": "blocks.{}.attn.qkv.*",
    "blocks.{}.attention.out.*": "blocks.{}.attn.proj.*", "blocks.{}.norm2.*": "blocks.{}.norm2.*",
    "blocks.{}.mlp.*": "blocks.{}.mlp.*",
}  # fmt: skip
_LEADING = {"vision.class_token": 2, "vision.positions": 1}  # dimensions of length one that only the file has
_QUEUE = "objectives.itc.{}_queue.{}"


def drop_leading_dimensions(ours: State) -> State:
    return {key: value[(0,) * _leading_dimensions(key)] for key, value in ours.items()}


def add_leading_dimensions(ours: State) -> State:
    return {key: value[(None,) * _leading_dimensions(key)] for key, value in ours.items()}


def _leading_dimensions(key: str) -> int:
    return _LEADING.get(key.removeprefix("momentum.").removeprefix("model."), 0)


def check_tied(state: State, decoder: str, own: str, format: str) -> None:
    """The language head's matrix is the word embedding's, so only one of them is read."""
    if decoder in state and own in state and not torch.equal(state[decoder], state[own]):
        raise UserError(f"{decoder} differs from {own}: {format}'s are one matrix, so this file is of another code")


def split_parts(ours: State) -> tuple[State, State, State]:
    """The model's tensors, the objectives' and the momentum copy's."""
    model, objectives, momentum = (without_prefix(ours, name) for name in ("model.", "objectives.", "momentum."))
    return model, objectives, momentum


def join_parts(state: State, heads: State, momentum: State) -> State:
    prefixed = {"model.": state, "objectives.": heads, "momentum.": momentum}
    return {prefix + key: value for prefix, part in prefixed.items() for key, value in part.items()}


def split_queue(ours: State) -> None:
    """`pointer` and `id` (where the file has one) become those of each queue."""
    pointer, image_id = ours.pop("pointer"), ours.pop("id", None)
    size = len(ours[_QUEUE.format("image", "embed")])
    image_id = torch.full((size,), -1) if image_id is None else image_id[0]
    for name in ("image", "text"):
        leaves = {"id": image_id.clone(), "pointer": pointer[0].clone(), "count": torch.tensor(size)}
        ours |= {_QUEUE.format(name, leaf): value for leaf, value in leaves.items()}


def join_queue(ours: State, format: str) -> bool:
    """The way back; whether the queue knows its images."""
    image, text = (
        {leaf: ours.pop(_QUEUE.format(name, leaf)) for leaf in ("id", "pointer", "count")} for name in ("image", "text")
    )
    if any(not torch.equal(image[leaf], text[leaf]) for leaf in image) or int(image["count"]) < len(image["id"]):
        raise UserError(
            f"{format}'s format has one pointer and one list of ids for two full queues; these differ or are not full"
        )
    ours["pointer"] = image["pointer"][None]
    known = bool((image["id"] != -1).any())
    if known:
        ours["id"] = image["id"][None]
    return known
