"""One head for boxes over any vision tower: each place of the raster proposes one box, and class vectors or text embeddings
score it (OWL-ViT's design, arXiv:2205.06230; its loss is that of Deformable DETR, arXiv:2010.04159, without queries).
A mask is the place's mask embedding times a map of pixels (as in YOLACT and MaskFormer, arXiv:1904.02689, 2107.06278).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlp.models.dense.boxes import BoxHead, PlaceMlp, to_corners
from vlp.models.dense.pixels import PixelMap
from vlp.models.dense.places import Places
from vlp.models.dense.scores import ClassScores, TextScores
from vlp.structures import Record, Tokens
from vlp.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Proposals(Record):
    """One of each place, in [0, 1] of what the tower saw.  boxes: centre, width, height.  logits: of sigmoids."""

    boxes: Float[Tensor, "b n 4"]
    logits: Float[Tensor, "b n c"]
    objectness: Float[Tensor, "b n"] | None = None
    embeddings: Float[Tensor, "b n k"] | None = None  # of masks
    pixels: Float[Tensor, "b k h w"] | None = None
    grid: tuple[int, int] = (1, 1)

    def mask_logits(self, image: Int[Tensor, " p"], place: Int[Tensor, " p"]) -> Float[Tensor, "p h w"]:
        """Of some places of some images, at the size of the map of pixels."""
        assert self.embeddings is not None
        assert self.pixels is not None
        return torch.einsum("pk,pkhw->phw", self.embeddings[image, place], self.pixels[image])


@dataclass(frozen=True, kw_only=True)
class TopDetections(Record):
    """The best `k` pairs of place and class of each image, best first.  boxes: left, top, right, bottom."""

    boxes: Float[Tensor, "b k 4"]
    scores: Float[Tensor, "b k"]
    label: Int[Tensor, "b k"]
    place: Int[Tensor, "b k"]


class Detector(nn.Module):
    """places, boxes, scores: the parts; an objectness beside the scores is OWLv2's (Minderer et al., arXiv:2306.09683), which
    learns from features without gradient.

    pixels: the map that makes masks; None = boxes alone."""

    def __init__(
        self,
        *,
        places: Places,
        boxes: BoxHead,
        scores: ClassScores | TextScores,
        objectness: bool = False,
        pixels: PixelMap | None = None,
    ) -> None:
        super().__init__()
        self.places, self.boxes, self.scores = places, boxes, scores
        self.objectness = PlaceMlp(width=places.width, out_width=1) if objectness else None
        self.pixels = pixels
        self.embeddings = None if pixels is None else PlaceMlp(width=places.width, out_width=pixels.channels, layers=2)

    def forward(self, tokens: Tokens, queries: Tensor | None = None) -> Proposals:
        """queries: [q e] or [b q e], embeddings of texts; None for class vectors."""
        places, grid = self.places(tokens)
        logits = self.scores(places) if queries is None else self.scores(places, queries)
        return Proposals(
            boxes=self.boxes(places, grid),
            logits=logits,
            objectness=None if self.objectness is None else self.objectness(places.detach())[..., 0],
            embeddings=None if self.embeddings is None else self.embeddings(places),
            pixels=None if self.pixels is None else self.pixels(tokens),
            grid=grid,
        )


class PlaceDetector(Detector):
    """A detector from widths and settings: a class, so that checkpoints may name it.

    classes: of class vectors; None = texts, of the joint space of `embed_width`.  levels: inner maps of the tower that masks
    read, with their widths; place_levels: those of them that the places read too.  width: of the places, None = `states_width`.
    layers: of the box head.  mask_channels: of the map of pixels, 0 = no masks; up: how often the raster's side is doubled for it.
    The others: see the parts."""

    def __init__(
        self,
        *,
        states_width: int,
        classes: int | None,
        embed_width: int,
        levels: Sequence[str] = (),
        level_widths: Sequence[int] = (),
        width: int | None = None,
        place_levels: Sequence[str] = (),
        class_token: bool = False,
        norm: bool = True,
        eps: float = 1e-5,
        layers: int = 2,
        anchor: str = "cells",
        reach: float = 4.0,
        objectness: bool = False,
        mask_channels: int = 0,
        up: int = 2,
    ) -> None:
        widths = dict(zip(levels, level_widths, strict=True))
        if unknown := set(place_levels) - widths.keys():
            raise UserError(f"place_levels={sorted(unknown)} are not among levels={list(levels)}: name them there too")
        places = Places(
            width=width or states_width,
            states_width=states_width,
            levels=place_levels,
            level_widths=[widths[name] for name in place_levels],
            class_token=class_token,
            norm=norm,
            eps=eps,
        )
        scores: ClassScores | TextScores
        if classes is not None:
            scores = ClassScores(width=places.width, classes=classes)
        else:
            scores = TextScores(width=places.width, embed_width=embed_width)
        pixels = None
        if mask_channels:
            pixels = PixelMap(
                states_width=states_width, channels=mask_channels, up=up, levels=levels, level_widths=level_widths
            )
        boxes = BoxHead(width=places.width, layers=layers, anchor=anchor, reach=reach)
        super().__init__(places=places, boxes=boxes, scores=scores, objectness=objectness, pixels=pixels)


def best_detections(
    proposals: Proposals,
    *,
    count: int,
    classes: Sequence[int] | None = None,
    allowed: Bool[Tensor, "b n"] | None = None,
) -> TopDetections:
    """The `count` most probable pairs of place and class of each image, over all classes together; no suppression, as places
    are matched to things one to one.  classes: those that may be named; None = all.  allowed: places that may be."""
    scores = proposals.logits.float().sigmoid()
    if allowed is not None:
        scores = scores.masked_fill(~allowed[..., None], -1.0)
    if classes is not None:
        scores = scores[..., list(classes)]
    best, index = scores.flatten(1).topk(min(count, scores[0].numel()))
    place, label = index // scores.shape[-1], index % scores.shape[-1]
    if classes is not None:
        label = torch.tensor(list(classes), device=label.device)[label]
    corners = to_corners(proposals.boxes.float())
    boxes = corners.gather(1, place[..., None].expand(-1, -1, 4))
    return TopDetections(boxes=boxes, scores=best.clamp(min=0), label=label, place=place)
