"""Leaving out what the pooled feature does not need changes neither the feature nor any gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vlp.models.layers import Linear, QuickGelu, linear
from vlp.models.text.clip_text import ClipText
from vlp.models.vision.clip_vit import ClipVit
from vlp.structures import Image, Text

IDS = torch.tensor([[1, 5, 9, 3, 9], [1, 9, 0, 0, 0], [1, 4, 4, 9, 0]])
TEXT = Text(ids=IDS, mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool())


def both_ways(tower: nn.Module, inputs: Image | Text) -> list[dict[str, torch.Tensor]]:
    results = []
    for pooled_only in (False, True):
        tower.zero_grad()
        pooled = tower(inputs, pooled_only=pooled_only).pooled
        (pooled * torch.arange(1.0, pooled.numel() + 1).reshape(pooled.shape).sin()).sum().backward()
        gradients = {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}
        results.append({"pooled": pooled.detach(), **gradients})
    return results


@pytest.mark.parametrize(
    ("pool", "eot"), [("end", None), ("argmax", None), ("eot", 9), ("first", None), ("last", None)]
)
def test_text(pool: str, eot: int | None) -> None:
    tower = ClipText(vocabulary_size=10, context_length=8, width=16, layers=3, heads=2, pool=pool, eot_id=eot).double()
    plain, pooled_only = both_ways(tower, TEXT)
    assert plain.keys() == pooled_only.keys()
    for name, value in plain.items():
        torch.testing.assert_close(pooled_only[name], value, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("pool", ["class", "average"])
def test_vision(pool: str) -> None:
    tower = ClipVit(image_size=8, patch_size=4, width=16, layers=3, heads=2, pool=pool).double()
    plain, pooled_only = both_ways(tower, Image(pixels=torch.rand(3, 3, 8, 8, dtype=torch.float64)))
    for name, value in plain.items():
        torch.testing.assert_close(pooled_only[name], value, rtol=1e-10, atol=1e-12, msg=name)


def test_quick_gelu_gradient() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(QuickGelu(), (x,))
    torch.testing.assert_close(QuickGelu()(x), x * torch.sigmoid(1.702 * x))


@pytest.mark.parametrize(("rows", "dtype"), [(7, torch.float32), (1, torch.float32), (7, torch.float64)])
def test_linear_equals_torch(rows: int, dtype: torch.dtype) -> None:
    layer = Linear(6, 9).to(dtype)
    x = torch.randn(rows, 12, dtype=dtype, requires_grad=True)
    weights = torch.randn(rows, 9, dtype=dtype)
    found = torch.autograd.grad((layer(x[:, ::2]) * weights).sum(), [x, *layer.parameters()])
    expected = torch.autograd.grad(
        (F.linear(x[:, ::2], layer.weight, layer.bias) * weights).sum(), [x, *layer.parameters()]
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class Quantised(torch.Tensor):
    """As torchao's: a weight that only knows linear maps."""

    @classmethod
    def __torch_function__(
        cls, function: object, types: object, args: tuple[torch.Tensor, ...] = (), kwargs: object = None
    ) -> object:
        if function is not F.linear:
            return super().__torch_function__(function, types, args, kwargs or {})  # type: ignore[arg-type]
        return F.linear(args[0], torch.zeros(5, 3), None)


def test_a_weight_of_another_kind_passes_through_a_linear_map() -> None:
    weight = torch.randn(5, 3).as_subclass(Quantised)
    assert torch.equal(linear(torch.randn(4, 3), weight, torch.zeros(5)), torch.zeros(4, 5))
