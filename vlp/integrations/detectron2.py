"""A vision tower of vlp as Detectron2's backbone, and vlp's data sets in its catalogs. Nothing in vlp imports this module.

yacs: `add_vlp_config(cfg)`, then MODEL.BACKBONE.NAME "build_vlp_backbone" (one map) or "build_vlp_pyramid_backbone" (several).
LazyConfig: L(VlpBackbone)(checkpoint=…), for example within L(PaddedFeaturePyramid). docs/guides/detectron2.md has both.
Written for facebookresearch/detectron2 at 02b5c4e (version 0.6).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from jaxtyping import Float
from torch import Tensor, nn

from vlp.checkpoints.load import build_model, read
from vlp.data.datamodule import DataModule
from vlp.integrations.detectron2_data import dataset_dicts, metadata
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, height_and_width
from vlp.system.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (
    (123.675, 116.28, 103.53),
    (58.395, 57.12, 57.375),
)  # RGB; what its LazyConfigs of ViTDet use
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
FREEZE = ("nothing", "norms", "everything")


class VlpBackbone(Backbone):
    """`last_feat`: the raster of the tower's last states; with `levels`, the maps of inner modules under names such as "res2".

    checkpoint: any file or folder that `vlp.load` reads.  tower: a built one instead.
    levels: Detectron2's names → modules of the tower.
    pixel_mean, pixel_std, input_format: those of the detector, which normalises images before the backbone; they are undone here,
    and the tower normalises RGB itself, so that every setting gives the same features.
    freeze: "norms": batch norms keep their statistics and weights, as detectors' batches are small; "everything"; "nothing".
    square_size: pixels of a square that images are padded to; 0 = only to a multiple of the stride.
    """

    def __init__(
        self,
        *,
        checkpoint: str | Path | None = None,
        tower: nn.Module | None = None,
        levels: Mapping[str, str] | None = None,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        input_format: str = "RGB",
        freeze: str = "norms",
        square_size: int = 0,
    ) -> None:
        super().__init__()
        if freeze not in FREEZE or input_format not in ("RGB", "BGR"):
            raise UserError(
                f"VlpBackbone: freeze={freeze!r} is one of {', '.join(FREEZE)}, input_format={input_format!r} RGB or BGR"
            )
        self.model = VisionLanguageModel(vision=_read_tower(checkpoint) if tower is None else tower)
        self.levels, self.freeze, self.square_size = dict(levels or {}), freeze, square_size
        self.is_bgr = input_format == "BGR"
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(list(values), dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self._shapes = self._measure()
        frozen = [part for part in self.modules() if freeze == "everything" or isinstance(part, BATCH_NORMS)]
        for part in frozen if freeze != "nothing" else ():
            part.requires_grad_(False)
        self.train(self.training)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b d rows columns"]]:
        """x: as the detector normalised it."""
        pixels = (x * self.pixel_std + self.pixel_mean) / 255
        normalize: Any = self.model.part("vision").normalize
        pixels = ((pixels.flip(1) if self.is_bgr else pixels) - normalize.mean) / normalize.std
        tokens = self.model.encode_image(Image(pixels=pixels), levels=tuple(self.levels.values()))
        if self.levels:
            assert tokens.levels is not None
            return {name: tokens.levels[module] for name, module in self.levels.items()}
        if tokens.grid is None:
            raise UserError(
                "VlpBackbone: the states of this tower have no rows and columns: name inner modules in levels"
            )
        rows, columns = tokens.grid
        return {"last_feat": tokens.states[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    @property
    def size_divisibility(self) -> int:
        """Pixels: the largest stride."""
        return max(shape.stride for shape in self._shapes.values())

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility, "square_size": self.square_size}

    def train(self, mode: bool = True) -> VlpBackbone:
        super().train(mode and self.freeze != "everything")
        for part in self.modules() if self.freeze == "norms" else ():
            if isinstance(part, BATCH_NORMS):
                part.eval()
        return self

    @torch.no_grad()
    def _measure(self) -> dict[str, ShapeSpec]:
        """Widths and strides, of one blank image."""
        height, width = height_and_width(self.model.part("vision").image_size)
        self.eval()
        shapes = {}
        for name, level in self.forward(torch.zeros(1, 3, height, width)).items():
            stride, rest = divmod(height, level.shape[2])
            if rest or width != stride * level.shape[3]:
                raise UserError(
                    f"VlpBackbone: {name} has {tuple(level.shape[2:])} cells for {height} × {width} pixels, no constant stride"
                )
            shapes[name] = ShapeSpec(channels=level.shape[1], stride=stride)
        super().train(True)
        return shapes


def _read_tower(checkpoint: str | Path | None) -> nn.Module:
    if not checkpoint:
        raise UserError(
            "VlpBackbone: set checkpoint (cfg.MODEL.VLP.CHECKPOINT) to a file or run folder that vlp.load reads"
        )
    tower: nn.Module | None = build_model(read(Path(checkpoint).expanduser(), {})).vision
    if tower is None:
        raise UserError(f"VlpBackbone: {checkpoint} has no vision tower")
    return tower.train()


class PaddedFeaturePyramid(SimpleFeaturePyramid):
    """ViTDet's pyramid, with the size that images must be a multiple of under the name that Detectron2 reads (its own class
    misspells it, so images of odd sizes fail there: facebookresearch/detectron2#4676)."""

    @property
    def size_divisibility(self) -> int:
        """Pixels: the largest stride of the maps that are computed from the tower's; coarser ones are taken of these."""
        stride = self.net.output_shape()[self.in_feature].stride
        return int(max(stride / scale for scale in self.scale_factors))

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility, "square_size": super().padding_constraints["square_size"]}


def add_vlp_config(cfg: CfgNode) -> None:
    """Adds cfg.MODEL.VLP with its defaults; see `VlpBackbone`."""
    cfg.MODEL.VLP = CfgNode({"CHECKPOINT": "", "LEVELS": {}, "FREEZE": "norms", "SQUARE_SIZE": 0}, new_allowed=True)


@BACKBONE_REGISTRY.register()
def build_vlp_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> VlpBackbone:
    """The tower's own maps, from cfg.MODEL.VLP (`add_vlp_config`)."""
    node = cfg.MODEL.VLP
    return VlpBackbone(
        checkpoint=node.CHECKPOINT,
        levels=dict(node.LEVELS),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        input_format=cfg.INPUT.FORMAT,
        freeze=node.FREEZE,
        square_size=node.SQUARE_SIZE,
    )


@BACKBONE_REGISTRY.register()
def build_vlp_pyramid_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> PaddedFeaturePyramid:
    """Maps of strides 4 to 32 (p2 to p5), as far as they can be made of the tower's last map, whose stride is 8, 16 or 32: p2 to
    p4, p2 to p5 or p3 to p5; and the next coarser one, for proposals. All have cfg.MODEL.FPN.OUT_CHANNELS channels."""
    net = build_vlp_backbone(cfg, input_shape)
    stride = net.size_divisibility
    if stride not in (8, 16, 32) or net.levels:
        raise UserError(f"build_vlp_pyramid_backbone takes one map of stride 8, 16 or 32, not {net.output_shape()}")
    scales = [scale for scale in (4.0, 2.0, 1.0, 0.5) if 4 <= stride / scale <= 32]
    coarser = LastLevelMaxPool()
    coarser.in_feature = f"p{int(math.log2(stride / scales[-1]))}"
    return PaddedFeaturePyramid(
        net=net,
        in_feature="last_feat",
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        scale_factors=scales,
        top_block=coarser,
        norm="LN",
        square_pad=cfg.MODEL.VLP.SQUARE_SIZE,
    )


def register(name: str, data: DataModule, split: str) -> None:
    """Puts a split into DatasetCatalog and MetadataCatalog under this name. The class names are read now, photos when asked for."""
    DatasetCatalog.register(name, functools.partial(dataset_dicts, data, split))
    MetadataCatalog.get(name).set(**metadata(data, split))
