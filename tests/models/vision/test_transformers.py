"""Image backbones of transformers with each way of pooling: convolutional ones call their pooler whatever is done with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vlp.models.vision.transformers import TransformersVision
from vlp.structures import Image
from vlp.system.errors import UserError

CONVOLUTIONAL: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32},
}
VIT = {
    "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip


def tower(kind: str, pool: str, **config: Any) -> TransformersVision:
    torch.manual_seed(0)
    return TransformersVision(weights=False, config={"model_type": kind, **config}, pool=pool, image_size=32).eval()


@pytest.fixture
def image() -> Image:
    return Image(pixels=torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))


@pytest.mark.parametrize("kind", ["resnet", "regnet"])
def test_the_mean_over_a_map_is_what_an_average_pooler_gives(kind: str, image: Image) -> None:
    average, pooler = (tower(kind, pool, **CONVOLUTIONAL[kind])(image) for pool in ("average", "pooler"))
    assert average.grid is not None
    assert average.pooled.shape == (2, average.states.shape[2])
    torch.testing.assert_close(average.pooled, average.states.mean(1))
    torch.testing.assert_close(average.pooled, pooler.pooled)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_a_map_has_no_class_token(kind: str, image: Image) -> None:
    with pytest.raises(UserError, match=r"has no class token: set model\.vision\.pool to pooler or average"):
        tower(kind, "class", **CONVOLUTIONAL[kind])(image)


@pytest.mark.parametrize("pool", ["class", "average"])
def test_a_pooler_with_parameters_is_left_out(pool: str, image: Image) -> None:
    """Else they would never get a gradient."""
    built = tower("vit", pool, **VIT)
    assert not any("pooler" in name for name, _ in built.named_parameters())
    assert any("pooler" in name for name, _ in tower("vit", "pooler", **VIT).named_parameters())
    built(image).pooled.sum().backward()
    assert all(p.grad is not None for name, p in built.named_parameters() if "mask_token" not in name)


def test_a_backbone_of_unknown_width_is_an_error() -> None:
    with pytest.raises(UserError, match="MobileNetV2Config has no hidden_size"):
        tower("mobilenet_v2", "pooler", image_size=32)
