"""Attention in bfloat16 on a CPU takes its own way, to the same place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlp.models.layers import attend


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
