"""What a dense head (boxes, masks, phrases) needs of every tower, whichever library it comes from.

The states are as wide as `states_width` says and lie on `grid`; inner maps are as wide as `level_widths` says; images of other
sizes and shapes are taken, and each place still says what lies there: a linear head learns it within 20 steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.models.levels import level_widths
from vlp.models.vision.clip_resnet import ClipResNet
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.concat import ConcatTower
from vlp.models.vision.resnet import ResNetVision
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vision.timm import TimmVision
from vlp.models.vision.torchvision import TorchvisionVision
from vlp.models.vision.transformers import TransformersVision
from vlp.models.vision.vilt_patches import ViltPatches
from vlp.models.vlm import VisionLanguageModel, states_width
from vlp.structures import Image, Tokens

SIDE = 64  # that the towers are built for
SHAPES = ((96, 64), (64, 128), (128, 128))  # other ones; all multiples of 32
CLASSES = 4


SLOW = ("torchvision_convnext",)  # 28 million parameters in the smallest


@dataclass(frozen=True)
class Tower:
    """level: a module inside.  rate: of AdamW, in the test that learns.  shallow: whether so few steps teach it more than these
    scenes by heart."""

    make: Callable[[], Any]
    level: str
    rate: float = 3e-3
    shallow: bool = True


def clip_vit(**options: Any) -> ClipVit:
    return ClipVit(image_size=SIDE, patch_size=16, width=32, layers=2, heads=2, **options)


def small_cnn(**options: Any) -> SmallCnn:
    return SmallCnn(image_size=SIDE, channels=4, **options)


def timm_tower(name: str, **options: Any) -> TimmVision:
    return TimmVision(name=name, image_size=SIDE, options=options)


def transformers_tower(kind: str, pool: str = "pooler", **config: Any) -> TransformersVision:
    return TransformersVision(
        weights=False, config={"model_type": kind, "image_size": SIDE, **config}, pool=pool, image_size=SIDE
    )


CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
TIMM_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 16}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 16}
SWIN = {"embed_dim": 12, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 4}
STAGES = {"hidden_sizes": [8, 16, 24], "depths": [1, 1, 1]}

TOWERS: dict[str, Tower] = {
    "clip_vit": Tower(clip_vit, "blocks.0"),
    "clip_vit_normed_states": Tower(lambda: clip_vit(norm_states=True), "blocks.1"),
    "clip_vit_average": Tower(lambda: clip_vit(pool="average", class_token=False), "blocks.0"),
    "clip_vit_attention": Tower(
        lambda: clip_vit(pool="attention", class_token=False, norm_before_pool=True, pool_mlp_ratio=2.0, pool_width=48),
        "blocks.0",
    ),
    "clip_resnet": Tower(lambda: ClipResNet(image_size=SIDE, layers=[1, 1, 1, 1], stem_width=8, width=24), "layer2"),
    "small_cnn": Tower(small_cnn, "blocks"),
    "small_cnn_positions": Tower(lambda: small_cnn(positions=True, textures=True), "stem.1"),
    "vilt_patches": Tower(lambda: ViltPatches(image_size=SIDE, patch_size=16, width=48, dropout=0.0), "dropout"),
    "timm_vit": Tower(lambda: timm_tower("vit_tiny_patch16_224", **TIMM_VIT), "backbone.blocks.0"),
    "timm_vit_registers": Tower(
        lambda: timm_tower("vit_tiny_patch16_224", reg_tokens=4, no_embed_class=True, **TIMM_VIT), "backbone.blocks.0"
    ),
    "timm_resnet": Tower(lambda: timm_tower("resnet10t"), "backbone.layer2"),
    "timm_convnext": Tower(
        lambda: timm_tower("convnext_atto", **CONVNEXT), "backbone.stages.1"
    ),
    "timm_swin": Tower(
        lambda: timm_tower("swin_tiny_patch4_window7_224", embed_dim=12, depths=[1, 1, 1], num_heads=[1, 2, 2]),
        "backbone.layers.1",
    ),
    "timm_mobilenet": Tower(lambda: timm_tower("mobilenetv3_small_050"), "backbone.blocks.2", shallow=False),
    "resnet": Tower(lambda: ResNetVision(image_size=SIDE, layers=(1, 1, 1, 1), stem=8, planes=8), "backbone.layer3"),
    "torchvision_resnet": Tower(lambda: TorchvisionVision(name="resnet18", image_size=SIDE), "backbone.layer3"),
    "torchvision_mobilenet": Tower(
        lambda: TorchvisionVision(name="mobilenet_v3_small", image_size=SIDE), "backbone.features.4", shallow=False
    ),
    "torchvision_convnext": Tower(
        lambda: TorchvisionVision(name="convnext_tiny", image_size=SIDE), "backbone.features.3", rate=3e-4
    ),
    "transformers_vit": Tower(lambda: transformers_tower("vit", **VIT), "backbone.layers.0"),
    "transformers_clip": Tower(lambda: transformers_tower("clip_vision_model", **VIT), "backbone.encoder.layers.0"),
    "transformers_dinov2": Tower(lambda: transformers_tower("dinov2", **VIT), "backbone.encoder.layer.1"),
    "transformers_registers": Tower(
        lambda: transformers_tower("dinov2_with_registers", num_register_tokens=2, **VIT), "backbone.encoder.layer.1"
    ),
    "transformers_swin": Tower(lambda: transformers_tower("swin", **SWIN), "backbone.encoder.layers.0"),
    "transformers_convnext": Tower(
        lambda: transformers_tower("convnext", num_stages=3, **STAGES), "backbone.encoder.stages.1"
    ),
    "transformers_resnet": Tower(
        lambda: transformers_tower("resnet", embedding_size=8, layer_type="basic", **STAGES), "backbone.encoder.stages.1"
    ),
    "transformers_mobilevit": Tower(
        lambda: transformers_tower(
            "mobilevit", hidden_sizes=[12, 16, 20], neck_hidden_sizes=[8, 8, 8, 12, 16, 20, 36], num_attention_heads=2
        ),
        "backbone.encoder.layer.1",
        rate=3e-2,
        shallow=False,
    ),
    "concat": Tower(
        lambda: ConcatTower(
            towers=[timm_tower("convnext_atto", **CONVNEXT), timm_tower("resnet10t")], image_size=SIDE, join_states=True
        ),
        "towers.1.backbone.layer2",
    ),
}  # fmt: skip


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in TOWERS])
def tower(request: pytest.FixtureRequest) -> Tower:
    torch.manual_seed(0)
    return TOWERS[request.param]


def blank(height: int, width: int, count: int = 2) -> Image:
    generator = torch.Generator().manual_seed(0)
    return Image(pixels=torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator))


@pytest.mark.parametrize("shape", [(SIDE, SIDE), *SHAPES])
@torch.no_grad()
def test_states_lie_on_the_grid_and_levels_are_maps_of_the_said_widths(tower: Tower, shape: tuple[int, int]) -> None:
    model = VisionLanguageModel(vision=tower.make()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = model.encode_image(blank(*shape), levels=[tower.level])
    assert tokens.pooled.shape == (2, model.vision.width)
    assert tokens.states.shape[2] == states_width(model.vision)
    assert tokens.grid is not None
    rows, columns = tokens.grid
    assert rows * shape[1] == columns * shape[0]  # as the images are, to which all strides fit
    assert 0 <= tokens.states.shape[1] - rows * columns <= 5
    assert tokens.levels is not None
    level = tokens.levels[tower.level]
    assert [level.shape[1]] == level_widths(model.vision, [tower.level])
    assert level.shape[2] * shape[1] == level.shape[3] * shape[0]
    assert level.shape[2] % rows == 0
    assert tokens.states.isfinite().all()


def test_a_gradient_reaches_every_trainable_parameter(tower: Tower) -> None:
    built = tower.make().train()
    tokens = built(blank(96, SIDE, count=3))
    (tokens.pooled * torch.randn_like(tokens.pooled)).sum().backward(retain_graph=True)
    (tokens.states * torch.randn_like(tokens.states)).sum().backward()
    assert [name for name, value in built.named_parameters() if value.requires_grad and value.grad is None] == []


def scenes(seed: int) -> tuple[Image, Tensor]:
    """Eight images of 3 by 2 blocks, 32 pixels a side, each of one of four colours with noise; and which."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (8, 3, 2), generator=generator)
    colours = torch.tensor([[220, 40, 40], [40, 200, 60], [50, 60, 220], [230, 220, 60]])
    pixels = colours[label].permute(0, 3, 1, 2).repeat_interleave(32, 2).repeat_interleave(32, 3)
    pixels = pixels + torch.randint(-25, 26, pixels.shape, generator=generator)
    return Image(pixels=pixels.clamp(0, 255).to(torch.uint8)), label


def scores_and_targets(head: nn.Linear, tokens: Tokens, label: Tensor) -> tuple[Tensor, Tensor]:
    """Of each place, in one row."""
    assert tokens.grid is not None
    rows, columns = tokens.grid
    places = tokens.states[:, -rows * columns :].unflatten(1, tokens.grid)
    target = label.repeat_interleave(rows // 3, 1).repeat_interleave(columns // 2, 2)
    return head(places).flatten(0, 2), target.flatten()


def test_a_linear_head_learns_what_lies_at_each_place(tower: Tower) -> None:
    built = tower.make().train()
    head = nn.Linear(states_width(built), CLASSES)
    images, label = scenes(1)
    optimizer = torch.optim.AdamW(
        [{"params": built.parameters(), "lr": tower.rate}, {"params": head.parameters(), "lr": 1e-2}], weight_decay=0.0
    )
    losses = []
    for _ in range(21):
        loss = F.cross_entropy(*scores_and_targets(head, built(images), label))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.0
    assert losses[-1] <= losses[0] / 2, losses
    if tower.shallow:  # with rows and columns exchanged at most towers learn by heart, and know nothing of other scenes
        images, label = scenes(2)
        scores, target = scores_and_targets(head, built(images), label)
        assert (scores.argmax(1) == target).float().mean() >= 0.8
