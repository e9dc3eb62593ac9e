"""A small convolutional tower for small images, made to learn within minutes on a CPU: three strided convolutions to an
eighth of the side, residual blocks there, and the mean over positions of rectified channels.

The last map comes before the mean, so pooling does not destroy what it detects at one position (a red circle).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.vision.normalize import Normalize
from vlp.models.vision.positions import patch_grid, resize_positions
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError


class SmallCnn(nn.Module):
    """channels: of the first convolution; the next have 2, 4 and the pooled map 8 times as many.  blocks: residual ones.
    positions: whether states are normalised and learned positions added to them, for a fusion that attends to them; the
    pooled feature is the same. They are learned at image_size and resized to images of another size or shape, of which cells of
    8 pixels that are not complete are not seen.
    textures: whether the last map also has as inputs, at each position, the mean and the deviation of another shallow convolution
    of 4 × channels filters. By them random filters distinguish the textures of generated scenes, which the deep maps lose
    early in training (experiments/albef_scenes).
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        blocks: int = 1,
        positions: bool = False,
        textures: bool = False,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        if image_size % 8:
            raise UserError(f"model.vision.image_size={image_size} must be a multiple of 8")
        self.image_size, self.width = image_size, 8 * channels
        self.grid, self.positions_size = (image_size // 8, image_size // 8), image_size if positions else None
        self.normalize = Normalize(mean=mean, std=std)
        self.stem = nn.Sequential(
            _Downsample(3, channels), _Downsample(channels, 2 * channels), _Downsample(2 * channels, 4 * channels)
        )
        self.blocks = nn.Sequential(*(_ResidualBlock(4 * channels) for _ in range(blocks)))
        self.textures = _Downsample(3, 4 * channels) if textures else None
        self.last = nn.Conv2d((12 if textures else 4) * channels, self.width, 1)
        self.positions = nn.Parameter(0.1 * torch.randn((image_size // 8) ** 2, self.width)) if positions else None

    def forward(self, image: Image) -> Tokens:
        pixels = self.normalize(image)
        patch_grid(pixels, 8)  # an image without a complete cell is refused
        maps = self.blocks(self.stem(pixels))
        if self.textures is not None:
            maps = torch.cat([maps, *_cell_mean_and_std(self.textures(pixels))], 1)
        maps = F.relu(self.last(maps))
        states, grid = rearrange(maps, "b d h w -> b (h w) d"), (maps.shape[2], maps.shape[3])
        if self.positions is not None:
            states = F.layer_norm(states, states.shape[-1:]) + resize_positions(self.positions, self.grid, grid)
        return Tokens(states=states, pooled=reduce(maps, "b d h w -> b d", "mean"), grid=grid)


def _cell_mean_and_std(
    maps: Float[Tensor, "b d h w"],
) -> tuple[Float[Tensor, "b d rows columns"], Float[Tensor, "b d rows columns"]]:
    """Mean and standard deviation over each cell of 4 by 4, which is one of 8 by 8 pixels."""
    mean = F.avg_pool2d(maps, 4)
    variance = F.avg_pool2d(maps.float().square(), 4) - mean.float().square()
    return mean, variance.clamp(min=1e-4).sqrt().to(mean)


class _Downsample(nn.Sequential):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(width_in, width, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
