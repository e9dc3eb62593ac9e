"""Attention in bfloat16 on a CPU takes its own way, to the same place; grouped-query attention is full attention with repeated
keys and values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlp.models.layers import Attention, Layout, attend
from vlp.models.post_norm import CrossAttention
from vlp.system.errors import UserError


@pytest.mark.parametrize(("masked", "causal"), [(False, False), (True, False), (False, True)])
def test_bfloat16_equals_torch_in_single_precision(masked: bool, causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, 7, 16, generator=generator).bfloat16().requires_grad_() for _ in range(3))
    mask = torch.arange(7) < torch.tensor([7, 4, 1])[:, None, None, None] if masked else None
    ours = attend(q, k, v, mask, causal=causal)
    assert ours.dtype == torch.bfloat16
    gradients = torch.autograd.grad(ours.float().square().sum(), (q, k, v))
    single = [x.detach().float().requires_grad_() for x in (q, k, v)]
    theirs = F.scaled_dot_product_attention(*single, attn_mask=mask, is_causal=causal)
    expected = torch.autograd.grad(theirs.square().sum(), single)
    torch.testing.assert_close(ours.float(), theirs, atol=2e-2, rtol=2e-2)
    for gradient, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient.float(), right, atol=5e-2, rtol=5e-2)


WIDTH, HEADS = 24, 6


def repeated(grouped: torch.Tensor, groups: int) -> torch.Tensor:
    """Weights or biases of keys or values with one copy for each head, heads / groups in a row of each."""
    rows = grouped.view(groups, WIDTH // HEADS, -1).repeat_interleave(HEADS // groups, dim=0)
    return rows.reshape(WIDTH, *grouped.shape[1:])


@torch.no_grad()
def with_repeated_heads(grouped: Attention, groups: int) -> Attention:
    full = Attention(width=WIDTH, heads=HEADS)
    full.out.load_state_dict(grouped.out.state_dict())
    for kind in ("weight", "bias"):
        own = getattr(grouped.qkv, kind)
        size = groups * (WIDTH // HEADS)
        q, k, v = own.split([WIDTH, size, size])
        getattr(full.qkv, kind).copy_(torch.cat([q, repeated(k, groups), repeated(v, groups)]))
    return full


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("case", ["all", "padded", "causal", "masked pairs", "one row"])
@torch.no_grad()
def test_grouped_queries_equal_full_attention_with_repeated_keys_and_values(groups: int, case: str) -> None:
    torch.manual_seed(0)
    grouped = Attention(width=WIDTH, heads=HEADS, key_value_heads=groups)
    full, real = with_repeated_heads(grouped, groups), torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    layout = Layout.from_mask(real) if case in ("padded", "one row") else Layout(3, 7)
    x = layout.pack(torch.randn(3, 7, WIDTH))
    mask = layout.attention_mask()
    if case == "masked pairs":
        mask = torch.rand(1, 1, 7, 7) < 0.7
        mask[..., 0] = True
    if case == "one row":
        found, expected = (part.forward_at_rows(x, layout, torch.tensor([6, 10, 11])) for part in (grouped, full))
    else:
        found, expected = (part(x, layout, mask, case == "causal") for part in (grouped, full))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert groups == HEADS or grouped.qkv.weight.numel() < full.qkv.weight.numel()


@pytest.mark.parametrize("groups", [1, 3])
@torch.no_grad()
def test_grouped_cross_attention_equals_full_with_repeated_keys_and_values(groups: int) -> None:
    torch.manual_seed(0)
    grouped = CrossAttention(width=WIDTH, memory_width=10, heads=HEADS, dropout=0.0, key_value_heads=groups)
    full = CrossAttention(width=WIDTH, memory_width=10, heads=HEADS, dropout=0.0)
    full.load_state_dict(grouped.state_dict() | {f"key_value.{kind}": torch.cat([
        repeated(part, groups) for part in getattr(grouped.key_value, kind).chunk(2)
    ]) for kind in ("weight", "bias")})  # fmt: skip
    x, states, mask = (
        torch.randn(12, WIDTH),
        torch.randn(2, 5, 10),
        torch.tensor([[True] * 5, [True] * 2 + [False] * 3]),
    )
    found, expected = (
        part(x, Layout(2, 6), part.project_memory(states), mask[:, None, None]) for part in (grouped, full)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_heads_of_keys_and_values_divide_the_heads() -> None:
    for wrong in (0, 4, 12):
        with pytest.raises(UserError, match=f"key_value_heads={wrong} for 6 attention heads: give a divisor of 6"):
            Attention(width=WIDTH, heads=HEADS, key_value_heads=wrong)
