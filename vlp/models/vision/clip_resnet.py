"""CLIP's ResNet, with equal numbers (Radford et al., arXiv:2103.00020, §2.4; openai/CLIP clip/model.py).

Against the usual ResNet: three convolutions in the stem, average pooling before every strided map (anti-aliasing), and
attention pooling whose output already lies in the joint space. Module names are OpenAI's, as its keys are ours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.layers import num_heads
from vlp.models.vision.normalize import CLIP_MEAN, CLIP_STD, Normalize
from vlp.models.vision.positions import Grid, patch_grid, resize_positions
from vlp.structures import Image, Tokens


class Bottleneck(nn.Module):
    def __init__(self, *, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        nn.init.zeros_(self.bn3.weight)
        self.downsample = None
        if stride > 1 or width_in != 4 * width:
            convolution = nn.Conv2d(width_in, 4 * width, 1, bias=False)
            self.downsample = nn.Sequential(
                OrderedDict([("-1", nn.AvgPool2d(stride)), ("0", convolution), ("1", nn.BatchNorm2d(4 * width))])
            )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        identity = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(self.avgpool(x))) + identity)


class AttentionPool(nn.Module):
    """One query, the mean token, attends to the mean token and all positions."""

    def __init__(self, *, side: int, width: int, heads: int, width_out: int) -> None:
        super().__init__()
        self.heads, self.grid = heads, (side, side)
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(side**2 + 1, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, width_out)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(linear.weight, std=width**-0.5)
            nn.init.zeros_(linear.bias)

    def forward(self, states: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b e"]:
        """grid: rows and columns of the states."""
        positions = resize_positions(self.positional_embedding, self.grid, grid)
        x = torch.cat([states.mean(1, keepdim=True), states], dim=1) + positions
        q, k, v = (
            rearrange(linear(y), "b n (h d) -> b h n d", h=self.heads)
            for linear, y in ((self.q_proj, x[:, :1]), (self.k_proj, x), (self.v_proj, x))
        )
        return self.c_proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h 1 d -> b (h d)"))


class ClipResNet(nn.Module):
    """layers: blocks of the four stages.  stem_width: OpenAI's `vision_width`; the raster is 32 times as wide.
    width: of the pooled feature, that is of the joint space.
    image_size: of the grid of 32-pixel cells that the positions of attention pooling are learned at; for images of other sizes
    and shapes they are resized (`vlp.models.vision.positions`).
    """

    def __init__(
        self,
        *,
        image_size: int,
        layers: Sequence[int],
        stem_width: int,
        width: int,
        heads: int | None = None,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        super().__init__()
        self.width, self.image_size, self.positions_size = width, image_size, image_size
        self.states_width = 32 * stem_width
        self.normalize = Normalize(mean=mean, std=std)
        half = stem_width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, stem_width, 3, padding=1, bias=False), nn.BatchNorm2d(stem_width)
        self.layer1 = _build_stage(stem_width, stem_width, layers[0], stride=1)
        self.layer2 = _build_stage(4 * stem_width, 2 * stem_width, layers[1], stride=2)
        self.layer3 = _build_stage(8 * stem_width, 4 * stem_width, layers[2], stride=2)
        self.layer4 = _build_stage(16 * stem_width, 8 * stem_width, layers[3], stride=2)
        self.attnpool = AttentionPool(
            side=image_size // 32,
            width=self.states_width,
            heads=num_heads(self.states_width, heads, "vision_heads"),
            width_out=width,
        )

    def forward(self, image: Image) -> Tokens:
        pixels = self.normalize(image)
        patch_grid(pixels, 32)  # an image without a complete cell is refused
        x = F.relu(self.bn1(self.conv1(pixels)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        states, grid = rearrange(x, "b d h w -> b (h w) d"), (x.shape[2], x.shape[3])
        return Tokens(states=states, pooled=self.attnpool(states, grid), grid=grid)


def _build_stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(width_in=width_in, width=width, stride=stride)
    return nn.Sequential(first, *(Bottleneck(width_in=4 * width, width=width, stride=1) for _ in range(blocks - 1)))
