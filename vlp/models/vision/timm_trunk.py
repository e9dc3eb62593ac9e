"""A timm backbone whose lower stages are frozen and run once for each different image.

A frozen trunk is a pure function of the pixels, so its maps are kept by the pixels' hash: with a few augmented views an
image (`data.views`), the later epochs train the upper stages at a fraction of the cost. Exact up to the precision in
which the maps are kept.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.vision.timm import TimmVision
from vlp.structures import Image, Tokens

# the order in which timm's networks call their children: EfficientNet and MobileNet, ResNet, RegNet, ConvNeXt
_ORDER = ("conv_stem", "conv1", "stem", "bn1", "act1", "maxpool", "s1", "s2", "s3", "s4", "blocks", "stages",
          "layer1", "layer2", "layer3", "layer4", "final_conv", "conv_head", "bn2", "norm_head", "norm_pre")  # fmt: skip


class TimmTrunk(TimmVision):
    """trunk: the last frozen module by its name in the backbone, such as `blocks.5.0` or `layer3`.
    keep: how many maps to hold, in half precision, oldest first out; 0 = none.  trunk_bf16: run the trunk in bfloat16.
    flip_average: in evaluation, the mean of the features of an image and of its mirror image.  The rest as `TimmVision`.
    """

    def __init__(
        self, *, trunk: str, keep: int = 0, trunk_bf16: bool = False, flip_average: bool = False, **timm: Any
    ) -> None:
        super().__init__(**timm)
        self.trunk, self.keep, self.trunk_bf16, self.flip_average = trunk, keep, trunk_bf16, flip_average
        self._maps: dict[bytes, Tensor] = {}
        names = [name for name, _ in _in_order(self.backbone)]
        if trunk not in names:
            raise ValueError(f"model.vision.trunk={trunk}: no such module; choose one of {', '.join(names)}")
        self.split = names.index(trunk) + 1
        for module in self._lower():
            module.requires_grad_(False)
        self._check()

    def _lower(self) -> list[nn.Module]:
        return [module for _, module in _in_order(self.backbone)][: self.split]

    def _upper(self) -> list[nn.Module]:
        return [module for _, module in _in_order(self.backbone)][self.split :]

    @torch.no_grad()
    def _check(self) -> None:
        """The children called in order must be the network."""
        training = self.backbone.training
        self.backbone.eval()
        x = whole = torch.randn(1, 3, self.image_size, self.image_size)
        for module in (*self._lower(), *self._upper()):
            x = module(x)
        if not torch.equal(x, self.backbone.forward_features(whole)):
            raise ValueError(
                f"timm's {self.name} is more than its stages in order and cannot be split into trunk and rest"
            )
        self.backbone.train(training)

    def train(self, mode: bool = True) -> TimmTrunk:
        super().train(mode)
        for module in self._lower():
            module.eval()
        return self

    def forward(self, image: Image) -> Tokens:
        tokens = self._from_trunk(image)
        if self.training or not self.flip_average:
            return tokens
        mirrored = self._from_trunk(Image(pixels=image.pixels.flip(-1)))
        return Tokens(states=tokens.states, pooled=(tokens.pooled + mirrored.pooled) / 2, grid=tokens.grid)

    def _from_trunk(self, image: Image) -> Tokens:
        x = self._remembered(image) if self.keep else self._run(image)
        for module in self._upper():
            x = module(x)
        states, grid = self._states(x)
        return Tokens(states=states, pooled=self._pooled(x), grid=grid)

    @torch.no_grad()
    def _run(self, image: Image) -> Float[Tensor, "b d h w"]:
        x = self.normalize(image)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.trunk_bf16):
            for module in self._lower():
                x = module(x)
        return x.float()

    def _remembered(self, image: Image) -> Float[Tensor, "b d h w"]:
        keys = [hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest() for row in image.pixels.cpu()]
        missing = [index for index, key in enumerate(keys) if key not in self._maps]
        if missing:
            for index, row in zip(missing, self._run(image.select(missing)).half().cpu(), strict=True):
                self._maps[keys[index]] = row.clone()
        x = torch.stack([self._maps[key] for key in keys]).to(image.pixels.device).float()
        while len(self._maps) > self.keep:
            del self._maps[next(iter(self._maps))]
        return x

    def __deepcopy__(self, memo: dict[int, Any]) -> TimmTrunk:
        """A copy (a moving average of the weights) shares the maps: its trunk has the same weights."""
        memo[id(self._maps)] = self._maps
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__.update({key: copy.deepcopy(value, memo) for key, value in self.__dict__.items()})
        return copied

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {
            "trunk": self.trunk,
            "keep": 0,
            "trunk_bf16": self.trunk_bf16,
            "flip_average": self.flip_average,
        }


def _in_order(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The called modules, containers of stages and blocks opened: (name, module)."""
    for name in _ORDER:
        child = getattr(backbone, name, None)
        if isinstance(child, nn.Sequential) and name in ("blocks", "stages", "layer1", "layer2", "layer3", "layer4"):
            for key, stage in child.named_children():
                inner = stage.named_children() if type(stage) is nn.Sequential else [("", stage)]
                yield from ((f"{name}.{key}.{k}".rstrip("."), module) for k, module in inner)
        elif isinstance(child, nn.Module):
            yield name, child
