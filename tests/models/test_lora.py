from __future__ import annotations

import copy

import pytest
import timm
import torch
import transformers
from torch import nn

from vlp.checkpoints.adapters import merge_adapters
from vlp.models.lora import add_adapters
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.small_cnn import SmallCnn
from vlp.structures import Image


def native() -> nn.Module:
    return ClipVit(image_size=16, patch_size=8, width=16, layers=2, heads=2)


def convolutions() -> nn.Module:
    return SmallCnn(image_size=16, channels=2)


def of_timm() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=2, num_classes=0)


def of_transformers() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    return transformers.ViTModel(config, add_pooling_layer=False)


def output(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    if isinstance(tower, (ClipVit, SmallCnn)):
        return tower(Image(pixels=pixels[..., :16, :16])).pooled
    found = tower(pixels)
    return found if isinstance(found, torch.Tensor) else found.last_hidden_state


@pytest.mark.parametrize("make", [native, convolutions, of_timm, of_transformers])
def test_adapters_start_as_nothing_learn_and_merge(make: object) -> None:
    torch.manual_seed(0)
    tower: nn.Module = make().eval()
    plain, pixels = copy.deepcopy(tower), torch.randn(3, 3, 32, 32)
    names = add_adapters(tower, rank=2, alpha=6, targets=r"(qkv|query|q_proj|fc1|intermediate|stem|last)")
    assert len(names) >= 2
    torch.testing.assert_close(output(tower, pixels), output(plain, pixels), rtol=0, atol=0)
    trained = {name: value for name, value in tower.named_parameters() if value.requires_grad}
    assert len(trained) == 2 * len(names)
    target = torch.randn_like(output(plain, pixels))
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for _ in range(2):  # A learns once B is not zero
        optimizer.zero_grad()
        (output(tower, pixels) * target).sum().backward()
        assert all(value.grad is not None for value in trained.values())
        optimizer.step()
    after = output(tower, pixels)
    assert float((after - output(plain, pixels)).abs().max()) > 1e-6
    merged = merge_adapters(tower.state_dict(), rank=2, alpha=6, targets="unused")
    plain.load_state_dict(merged)  # every key, no other
    torch.testing.assert_close(output(plain, pixels), after, rtol=1e-4, atol=1e-5)


def test_everything_else_stays_as_it_was() -> None:
    tower = native()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    add_adapters(tower, rank=1, targets=r"blocks\.1\..*fc2$")
    state = tower.state_dict()
    assert sum(name.endswith((".0.a", ".0.b")) for name in state) == 2
    for name, value in merge_adapters(state, rank=1).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_mistakes() -> None:
    for options, message in (
        ({"rank": 0, "targets": "qkv"}, "above 0"),
        ({"rank": 2, "alpha": -1, "targets": "qkv"}, "or null for the rank"),
        ({"rank": 2, "targets": "nothing"}, "matches no linear map or convolution of the model; among them are "),
        ({"rank": 2, "targets": "("}, "is no regular expression"),
    ):
        with pytest.raises(ValueError, match=message):
            add_adapters(native(), **options)
