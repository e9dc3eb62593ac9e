"""Features of given boxes: an FPN over a ResNet's four maps, RoIAlign, and the box head of Faster R-CNN without its classifier.

As in facebookresearch/detectron2 (modeling/backbone/fpn.py, poolers.py, roi_heads/box_head.py), number for number; weights come
from its files (`vlp.checkpoints.detectron2`). Lin et al., "Feature Pyramid Networks", CVPR 2017; He et al., "Mask R-CNN", 2017.
No proposals are made: bottom-up attention's features (VQA, VCR, captioning) of boxes that the data give.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import roi_align

from vlp.structures import Boxes, Tokens
from vlp.system.errors import UserError

LEVELS = (
    "backbone.layer1",
    "backbone.layer2",
    "backbone.layer3",
    "backbone.layer4",
)  # of a ResNet tower, strides 4 to 32
_CANONICAL = 224  # pixels: the side of a box that is read from level 4, of stride 16


class RegionFeatures(nn.Module):
    """level_widths: channels of the four maps, fine to coarse.  resolution: cells of a box's side.  fc_widths: of the layers."""

    levels = LEVELS

    def __init__(
        self,
        *,
        level_widths: Sequence[int],
        fpn_width: int = 256,
        fc_widths: Sequence[int] = (1024, 1024),
        resolution: int = 7,
    ) -> None:
        super().__init__()
        if len(level_widths) != 4:
            raise UserError(
                f"regions: level_widths={list(level_widths)} are to be those of four maps, of strides 4, 8, 16 and 32"
            )
        self.resolution, self.width, self.layers = resolution, fc_widths[-1], len(fc_widths)
        for level, width in enumerate(level_widths, start=2):
            self.add_module(f"fpn_lateral{level}", nn.Conv2d(width, fpn_width, 1))
            self.add_module(f"fpn_output{level}", nn.Conv2d(fpn_width, fpn_width, 3, padding=1))
        widths = [fpn_width * resolution**2, *fc_widths]
        for number, (before, after) in enumerate(itertools.pairwise(widths), start=1):
            self.add_module(f"fc{number}", nn.Linear(before, after))

    def pyramid(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b d _ _"]]:
        """p2 to p5, fine to coarse.  maps: those of `levels`, each half as high and wide as the one before.  Raises UserError."""
        outputs: list[Tensor] = []
        coarser: Tensor | None = None
        for level, level_map in reversed(list(enumerate(maps, start=2))):
            lateral = self.get_submodule(f"fpn_lateral{level}")(level_map)
            if coarser is not None:
                if lateral.shape[-2:] != (2 * coarser.shape[-2], 2 * coarser.shape[-1]):
                    raise UserError(
                        "regions: height and width of the images must be multiples of 32, or the maps of the pyramid do not fit "
                        "each other; choose a transform whose sizes are (multiple: 32)"
                    )
                lateral = lateral + F.interpolate(coarser, scale_factor=2.0, mode="nearest")
            coarser = lateral
            outputs.insert(0, self.get_submodule(f"fpn_output{level}")(lateral))
        return outputs

    def forward(
        self, maps: Sequence[Float[Tensor, "b _ _ _"]], boxes: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "m d"]:
        """maps: those of `levels`.  boxes: of each image, left, top, right, bottom in pixels of the network's input.
        Rows are in the order of images and boxes."""
        features = pool_boxes(self.pyramid(maps), boxes, strides=(4, 8, 16, 32), resolution=self.resolution).flatten(1)
        for number in range(1, self.layers + 1):
            features = self.get_submodule(f"fc{number}")(features).relu()
        return features


def box_levels(boxes: Float[Tensor, "m 4"], first: int = 2, last: int = 5) -> Int[Tensor, " m"]:
    """⌊4 + log₂(√area / 224)⌋ within the levels there are (FPN, eq. 1).  boxes: in pixels."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    levels = torch.floor(4 + torch.log2(areas.sqrt() / _CANONICAL + 1e-8))
    return levels.clamp(first, last).long()


def pool_boxes(
    maps: Sequence[Float[Tensor, "b d _ _"]],
    boxes: Sequence[Float[Tensor, "_ 4"]],
    *,
    strides: Sequence[int],
    resolution: int,
) -> Float[Tensor, "m d r r"]:
    """RoIAlign of each box in the map of its level, sampled as densely as the box is large.

    maps: fine to coarse.  strides: pixels per cell of each map, powers of two; with one map all boxes are read from it.
    """
    owner = torch.cat([torch.full((len(own), 1), float(image)) for image, own in enumerate(boxes)]).to(maps[0])
    rows = torch.cat([owner, torch.cat(list(boxes)).to(maps[0])], dim=1)
    pooled = maps[0].new_zeros(len(rows), maps[0].shape[1], resolution, resolution)
    first = strides[0].bit_length() - 1
    levels = box_levels(rows[:, 1:], first, first + len(maps) - 1) - first
    for level, (level_map, stride) in enumerate(zip(maps, strides, strict=True)):
        chosen = (levels == level).nonzero()[:, 0]
        regions = roi_align(level_map, rows[chosen], resolution, 1 / stride, sampling_ratio=0, aligned=True)
        pooled = pooled.index_put((chosen,), regions.to(pooled))
    return pooled


def region_features(tokens: Tokens, boxes: Sequence[Boxes], *, resolution: int = 7) -> Float[Tensor, "m d"]:
    """Mean of the states of any tower within each box, without weights of its own: RoIAlign over the tower's own raster.

    Rows are in the order of images and boxes.  Raises UserError for a tower whose states are no raster.
    """
    if tokens.grid is None:
        raise UserError(
            "region_features: the states of this tower have no rows and columns, so boxes name none of them: choose another "
            "tower, and one without merging of tokens (model/vision/merging=null)"
        )
    rows, columns = tokens.grid
    raster = rearrange(tokens.states[:, -rows * columns :], "b (h w) d -> b d h w", h=rows)
    cells = [own.xyxy * own.xyxy.new_tensor([columns, rows, columns, rows]) for own in boxes]
    return reduce(pool_boxes([raster], cells, strides=(1,), resolution=resolution), "m d h w -> m d", "mean")


def to_pixels(boxes: Sequence[Boxes], height: int, width: int) -> list[Float[Tensor, "_ 4"]]:
    """Boxes in [0, 1] of images of this size, as `RegionFeatures` takes them."""
    return [own.xyxy * own.xyxy.new_tensor([width, height, width, height]) for own in boxes]
