"""Token merging: between attention and perceptron of each block, the r pairs of most similar tokens become one token each.

Bolya et al., arXiv:2210.09461, §3; facebookresearch/ToMe tome/merge.py and tome/patch/timm.py (CC BY-NC 4.0; facts only). Tokens at
even and odd positions are matched by the cosine of their keys, means over the heads; each even token has one candidate, its
most similar odd one, and the r best pairs merge into means weighted by size, the number of patches that a token stands for.
Attention adds the logarithm of the sizes (equation 1), so that a merged token counts as often as its patches would. No weight
is added, so a tower of any checkpoint merges without training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp.models.layers import Attention, Layout, PreNormBlock, attend
from vlp.system.errors import UserError


class Tome(nn.Module):
    """merged_per_layer: r, tokens that each block merges away, half of them at most.  kept_share: in its place, the share of the
    patches that the last block leaves, above 0 and at most 1; each block then merges as many, up to one.
    proportional: whether attention adds the logarithm of the sizes (the paper leaves it out for towers of masked autoencoders).
    """

    def __init__(
        self, *, merged_per_layer: int | None = None, kept_share: float | None = None, proportional: bool = True
    ) -> None:
        super().__init__()
        if (merged_per_layer is None) == (kept_share is None):
            raise UserError(
                f"token merging with merged_per_layer={_shown(merged_per_layer)} and kept_share={_shown(kept_share)}: "
                "give one of the two, and null for the other"
            )
        if merged_per_layer is not None and merged_per_layer < 0:
            raise UserError(f"merged_per_layer={merged_per_layer}: give 0 or more")
        if kept_share is not None and not 0 < kept_share <= 1:
            raise UserError(f"kept_share={kept_share}: give a share above 0 and at most 1")
        self.merged_per_layer, self.kept_share, self.proportional = merged_per_layer, kept_share, proportional

    def schedule(self, *, layers: int, patches: int) -> list[int]:
        """Tokens that each block merges away: every second one at most.  patches: tokens without a class token, which does not
        merge."""
        if self.kept_share is None:
            wanted = [self.merged_per_layer or 0] * layers
        else:
            removed = patches - round(self.kept_share * patches)
            wanted = [removed * (index + 1) // layers - removed * index // layers for index in range(layers)]
        counts = []
        for count in wanted:
            counts.append(min(count, patches // 2))
            patches -= counts[-1]
        return counts

    def run_block(
        self, block: PreNormBlock, x: Float[Tensor, "b n d"], size: Float[Tensor, "b n"], count: int, protected: int
    ) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m"]]:
        """The block's states without `count` of its tokens, and the sizes of those that are left."""
        layout = Layout(x.shape[0], x.shape[1])
        flat = x.flatten(0, 1)
        attended, keys = self._attention(block.attention, block.norm1(flat), layout, size)
        x = layout.unpack(flat + block.dropout(attended))
        if count:
            x, size = merge(x, size, *match(keys, count, protected))
        layout, flat = Layout(x.shape[0], x.shape[1]), x.flatten(0, 1)
        return layout.unpack(flat + block.dropout(block.mlp(block.norm2(flat)))), size

    def first_states(
        self, block: PreNormBlock, x: Float[Tensor, "b n d"], size: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b d"]:
        """The block's output at the first token alone; it merges nothing."""
        layout, flat = Layout(x.shape[0], x.shape[1]), x.flatten(0, 1)
        keep = layout.length * torch.arange(layout.batch, device=x.device)
        attended = block.attention.forward_at_rows(block.norm1(flat), layout, keep, self.bias(size, x.dtype))
        first = flat[keep] + block.dropout(attended)
        return first + block.dropout(block.mlp(block.norm2(first)))

    def bias(self, size: Float[Tensor, "b n"], dtype: torch.dtype) -> Float[Tensor, "b 1 1 n"] | None:
        """What attention to tokens of these sizes adds."""
        return size.log().to(dtype)[:, None, None] if self.proportional else None

    def _attention(
        self, attention: Attention, x: Float[Tensor, "r d"], layout: Layout, size: Float[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "r d"], Float[Tensor, "b g n k"]]:
        q, k, v = attention.split_heads(layout.unpack(attention.qkv(x)))
        dropout = attention.dropout if attention.training else 0.0
        x = attend(q, k, v, self.bias(size, q.dtype), dropout=dropout)
        return attention.out(layout.pack(rearrange(x, "b h n d -> b n (h d)"))), k


def match(
    keys: Float[Tensor, "b g n k"], count: int, protected: int
) -> tuple[Int[Tensor, "b r"], Int[Tensor, "b left"], Int[Tensor, "b r"]]:
    """Of the tokens at even positions: those that merge and those that stay, in order; of those at odd positions: with which one
    each of the first merges.  protected: the first tokens, 0 or 1, which do not merge."""
    similar = F.normalize(keys.float().mean(1), dim=-1)
    scores = similar[:, ::2] @ similar[:, 1::2].mT
    if protected:
        scores[:, 0] = -torch.inf
    best, target = scores.max(dim=-1)
    order = best.argsort(dim=1, descending=True, stable=True)
    source, stays = order[:, :count], order[:, count:].sort(dim=1).values
    return source, stays, target.gather(1, source)


def merge(
    x: Float[Tensor, "b n d"],
    size: Float[Tensor, "b n"],
    source: Int[Tensor, "b r"],
    stays: Int[Tensor, "b left"],
    target: Int[Tensor, "b r"],
) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m"]]:
    """Means weighted by size, and the sums of sizes: the even tokens that stay, then all odd ones, as `match` chose them."""
    weighted = torch.cat([x * size[..., None].to(x.dtype), size[..., None].to(x.dtype)], dim=-1)
    even, odd = weighted[:, ::2], weighted[:, 1::2]
    # a product with a matrix of zeros and ones: unlike adding by index, its sums have one order on every device
    assignment = F.one_hot(target, odd.shape[1]).to(x.dtype).mT
    together = odd + assignment @ even.gather(1, source[..., None].expand(-1, -1, even.shape[2]))
    mean = together[..., :-1] / together[..., -1:]
    left, left_size = x[:, ::2], size[:, ::2].gather(1, stays)
    left = left.gather(1, stays[..., None].expand(-1, -1, x.shape[2]))
    return torch.cat([left, mean], dim=1), torch.cat([left_size, together[..., -1].to(size.dtype)], dim=1)


def set_merging(model: Any, settings: Mapping[str, Any]) -> None:
    """Merges tokens in the vision tower of a model that was trained with or without.  settings: arguments of `Tome`.  Raises
    UserError for a tower that cannot."""
    tower = model.part("vision")
    if not hasattr(tower, "merging"):
        raise UserError(
            f"merging: {type(tower).__name__} has no blocks of vlp that could merge tokens: choose a ClipVit"
        )
    tower.merging = Tome(**settings)


def _shown(value: object) -> str:
    return "null" if value is None else str(value)
