"""A ResNet of any depth and width, of torchvision's blocks and with its names of parameters (He et al., arXiv:1512.03385).

For files of Detectron2 whose sizes no named model of torchvision has, and for small images. states: the last map; pooled: its mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from vlp.models.vision.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError


class WeightSettings(nn.Module):
    """Settings of a tower that its weights decide: mean and deviation of RGB in [0, 1], where bottlenecks stride. Those that are
    not given are taken from the checkpoint whose weights the tower gets."""

    normalize: Normalize
    backbone: nn.Module

    def set_settings(
        self,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        stride_in_1x1: bool | None,
        *,
        default: tuple[Sequence[float], Sequence[float]] = (IMAGENET_MEAN, IMAGENET_STD),
    ) -> None:
        """default: mean and std of this tower's own weights."""
        settings = {"mean": mean, "std": std, "stride_in_1x1": stride_in_1x1}
        self.given = {key for key, value in settings.items() if value is not None}
        self.normalize = Normalize(mean=mean or default[0], std=std or default[1])
        self.stride_in_1x1 = bool(stride_in_1x1)
        if self.stride_in_1x1:
            set_stride(self.backbone, in_1x1=True)

    def take_settings(self, node: Mapping[str, Any]) -> None:
        """node: the config of the tower whose weights this one gets."""
        own, device = self.settings(), self.normalize.mean.device
        taken = own | {key: node[key] for key in own.keys() - self.given if node.get(key) is not None}
        self.normalize = Normalize(mean=taken["mean"], std=taken["std"]).to(device)
        if taken["stride_in_1x1"] != self.stride_in_1x1:
            self.stride_in_1x1 = taken["stride_in_1x1"]
            set_stride(self.backbone, in_1x1=self.stride_in_1x1)

    def settings(self) -> dict[str, Any]:
        return {**self.normalize.architecture(), "stride_in_1x1": self.stride_in_1x1}


class ResNetVision(WeightSettings):
    """layers: blocks of each of the four stages.  planes: of the first stage, doubled in each further one; a stage's maps have
    planes channels, or with `bottleneck` 4 · planes.  stem: channels after the first convolution.  groups, width_per_group: of
    the 3×3 convolutions of bottlenecks, which are planes · width_per_group / 64 · groups wide (ResNeXt).
    mean, std: of RGB in [0, 1].  stride_in_1x1: of bottlenecks, see `set_stride`. None = as the weights of a checkpoint need it,
    else ImageNet's and false.
    """

    def __init__(
        self,
        *,
        image_size: int | Sequence[int] = 224,
        layers: Sequence[int] = (3, 4, 6, 3),
        bottleneck: bool = True,
        stem: int = 64,
        planes: int = 64,
        groups: int = 1,
        width_per_group: int = 64,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        stride_in_1x1: bool | None = None,
    ) -> None:
        super().__init__()
        if len(layers) != 4 or min(layers) < 1:
            raise UserError(
                f"model.vision.layers={list(layers)}: give the number of blocks of four stages, such as [3,4,6,3]"
            )
        if not bottleneck and (groups, width_per_group) != (1, 64):
            raise UserError(
                "model.vision: groups and width_per_group are of bottlenecks; leave them out or set bottleneck=true"
            )
        block = Bottleneck if bottleneck else BasicBlock
        self.image_size = image_size
        self.backbone = _Backbone(layers, block, stem, planes, groups, width_per_group)
        self.width = self.states_width = self.backbone.width
        self.sizes = {
            "layers": list(layers),
            "bottleneck": bottleneck,
            "stem": stem,
            "planes": planes,
            "groups": groups,
        }
        self.sizes |= {"width_per_group": width_per_group}
        self.set_settings(mean, std, stride_in_1x1)

    def forward(self, image: Image) -> Tokens:
        maps = self.backbone(self.normalize(image))
        states = rearrange(maps, "b d h w -> b (h w) d")
        pooled = reduce(maps, "b d h w -> b d", "mean")
        return Tokens(states=states, pooled=pooled, grid=(maps.shape[2], maps.shape[3]))

    def architecture(self) -> dict[str, Any]:
        return {"image_size": self.image_size, **self.sizes, **self.settings()}


class _Backbone(nn.Module):
    def __init__(
        self, layers: Sequence[int], block: Any, stem: int, planes: int, groups: int, width_per_group: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = stem
        for stage, count in enumerate(layers):
            narrow, wide = planes * 2**stage, planes * 2**stage * block.expansion
            blocks = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                shortcut = None
                if stride != 1 or channels != wide:
                    shortcut = nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))
                blocks.append(block(channels, narrow, stride, shortcut, groups, width_per_group))
                channels = wide
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.width = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d rows columns"]:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(pixels))))
        for stage in range(1, 5):
            maps = self.get_submodule(f"layer{stage}")(maps)
        return maps


def set_stride(backbone: nn.Module, *, in_1x1: bool) -> None:
    """Halves the maps of stages 2 to 4 in the first 1×1 convolution of a bottleneck (MSRA's original weights, Detectron2's
    STRIDE_IN_1X1) or in the 3×3 one (torchvision).  Raises UserError for a backbone without bottlenecks."""
    for stage in (2, 3, 4):
        try:
            first, second, _ = (backbone.get_submodule(f"layer{stage}.0.conv{number}") for number in (1, 2, 3))
        except AttributeError as error:
            raise UserError(
                "model.vision.stride_in_1x1 is a setting of ResNets with bottlenecks, such as resnet50"
            ) from error
        first.stride, second.stride = ((2, 2), (1, 1)) if in_1x1 else ((1, 1), (2, 2))  # type: ignore[assignment]
