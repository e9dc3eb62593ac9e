"""What every tower promises, whichever library it comes from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from vlp.build import ALLOWED_IN_FILES, build
from vlp.models.text.clip_text import ClipText
from vlp.models.text.transformers import TransformersText
from vlp.models.vision.clip_resnet import ClipResNet
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.timm import TimmVision
from vlp.models.vision.torchvision import TorchvisionVision
from vlp.models.vision.transformers import TransformersVision
from vlp.structures import Image, Text

VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
       "intermediate_size": 40, "image_size": 32, "patch_size": 8}  # fmt: skip
CLIP_VIT = VIT | {"model_type": "clip_vision_model"}
BERT = {"model_type": "bert", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 40, "max_position_embeddings": 20}  # fmt: skip
TIMM_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
SWIN = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}


def vit(**options: object) -> ClipVit:
    return ClipVit(image_size=32, patch_size=8, width=32, layers=2, heads=2, **options)  # type: ignore[arg-type]


def text(**options: object) -> ClipText:
    return ClipText(vocabulary_size=50, context_length=20, width=32, layers=2, heads=2, **options)  # type: ignore[arg-type]


VISION: dict[str, Callable[[], nn.Module]] = {
    "clip_vit": vit,
    "clip_vit_average": lambda: vit(pool="average", pre_norm=False),
    "clip_vit_norm_average": lambda: vit(pool="average", norm_before_pool=True),
    "clip_vit_attention": lambda: vit(
        pool="attention", class_token=False, pre_norm=False, norm_before_pool=True, pool_mlp_ratio=2.0
    ),
    "clip_resnet": lambda: ClipResNet(image_size=32, layers=[1, 2, 1, 1], stem_width=8, width=24),
    "timm_vit": lambda: TimmVision(name="vit_tiny_patch16_224", image_size=32, options=TIMM_VIT),
    "timm_convnext": lambda: TimmVision(name="convnext_atto", image_size=32, options=CONVNEXT),
    "timm_swin": lambda: TimmVision(name="swin_tiny_patch4_window7_224", image_size=224, options=SWIN),
    "timm_average": lambda: TimmVision(name="vit_tiny_patch16_224", image_size=32, pool="average", options=TIMM_VIT),
    "torchvision": lambda: TorchvisionVision(name="resnet18", image_size=32),
    "transformers_vit": lambda: TransformersVision(config=VIT, weights=False),
    "transformers_clip": lambda: TransformersVision(config=CLIP_VIT, weights=False),
    "transformers_class": lambda: TransformersVision(config=VIT, weights=False, pool="class"),
    "transformers_average": lambda: TransformersVision(config=VIT, weights=False, pool="average"),
}  # fmt: skip
TEXT: dict[str, Callable[[], nn.Module]] = {
    "clip_end": text,
    "clip_argmax": lambda: text(pool="argmax"),
    "clip_eot": lambda: text(pool="eot", eot_id=49),
    "clip_first": lambda: text(pool="first", causal=False),
    "clip_last": lambda: text(pool="last", causal=False),
    "bert_pooler": lambda: TransformersText(config=BERT, weights=False),
    "bert_class": lambda: TransformersText(config=BERT, weights=False, pool="class"),
    "bert_mean": lambda: TransformersText(config=BERT, weights=False, pool="mean"),
}


def captions() -> Text:
    """Three texts that end in the highest id, 49, padded with 0."""
    torch.manual_seed(1)
    ids = torch.randint(1, 49, (3, 9))
    mask = torch.arange(9) < torch.tensor([[9], [4], [6]])
    ids[torch.arange(3), mask.sum(1) - 1] = 49
    return Text(ids=ids * mask, mask=mask)


def images(tower: nn.Module, count: int = 3) -> Image:
    torch.manual_seed(2)
    size = tower.image_size
    return Image(pixels=torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8))


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.parametrize("name", VISION)
@torch.no_grad()
def test_vision_tower(name: str) -> None:
    tower = built(VISION[name])
    batch = images(tower)
    tokens = tower(batch)
    assert tokens.pooled.shape == (3, tower.width)
    assert tokens.grid is not None
    assert tokens.states.shape[1] >= tokens.grid[0] * tokens.grid[1]
    backwards = tower(batch.select(torch.tensor([2, 1, 0])))
    torch.testing.assert_close(backwards.pooled.flip(0), tokens.pooled, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", VISION)
@torch.no_grad()
def test_uint8_pixels_are_normalised_by_the_tower_and_float_pixels_are_not(name: str) -> None:
    tower = built(VISION[name])
    raw = images(tower, count=2)
    ready = Image(pixels=(raw.pixels / 255 - tower.normalize.mean) / tower.normalize.std)
    torch.testing.assert_close(tower(raw).pooled, tower(ready).pooled)


@pytest.mark.parametrize("name", TEXT)
@torch.no_grad()
def test_text_tower_order_and_padding_change_nothing(name: str) -> None:
    tower, batch = built(TEXT[name]), captions()
    tokens = tower(batch)
    assert tokens.pooled.shape == (3, tower.width)
    assert tokens.states.shape[:2] == tokens.mask.shape
    padded = Text(ids=torch.zeros(3, 20, dtype=torch.int64), mask=torch.zeros(3, 20, dtype=torch.bool))
    padded.ids[:, :9], padded.mask[:, :9] = batch.ids, batch.mask
    torch.testing.assert_close(tower(padded).pooled, tokens.pooled, atol=1e-6, rtol=1e-5)
    alone = [tower(batch.select([row])).pooled for row in range(3)]
    torch.testing.assert_close(torch.cat(alone), tokens.pooled, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [*VISION, *TEXT])
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    tower = built({**VISION, **TEXT}[name]).train()
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)  # CLIP's residual branches start at zero
    tokens = tower(images(tower) if name in VISION else captions())
    (tokens.pooled * torch.randn_like(tokens.pooled)).sum().backward()
    assert [key for key, value in tower.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("name", [n for n in (*VISION, *TEXT) if not n.startswith("clip")])
@torch.no_grad()
def test_an_adapter_is_rebuilt_from_its_architecture_alone(name: str) -> None:
    tower = built({**VISION, **TEXT}[name])
    target = f"{type(tower).__module__}.{type(tower).__name__}"
    again = build({"_target_": target, **tower.architecture()}, allow=ALLOWED_IN_FILES).eval()
    again.load_state_dict(tower.state_dict())
    batch = images(tower) if name in VISION else captions()
    assert torch.equal(tower(batch).pooled, again(batch).pooled)
