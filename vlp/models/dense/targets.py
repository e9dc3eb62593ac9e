"""What a batch's boxes say a detector should find: of classes, or of the captions that boxes belong to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.distributed import gather, gather_lists
from vlp.models.dense.detection_loss import Targets
from vlp.structures import Boxes, Text


def class_positions(names: Sequence[str], classes: Sequence[str]) -> Int[Tensor, " names"]:
    """Of each name of the data among the head's classes; -1 = it is none of them, and its boxes are left out."""
    return torch.tensor([classes.index(name) if name in classes else -1 for name in names], dtype=torch.int64)


def class_targets(
    boxes: Sequence[Boxes], extent: Float[Tensor, "b 2"], *, position: Int[Tensor, " names"], classes: int,
    image_size: tuple[int, int],
) -> Targets:  # fmt: skip
    """With one column for each class.  extent: see `image_extent`.  position: see `class_positions`.  image_size: rows and
    columns of the padded images."""
    position = position.to(extent.device)
    known = [_known(row, position) for row in boxes]
    things = [keep & ~_crowds(row) for row, keep in zip(boxes, known, strict=True)]
    federated = any(row.absent is not None for row in boxes)
    unknown = [_unknown(row, position, classes) for row in boxes] if federated else None
    return Targets(
        boxes=[scale_boxes(row.xyxy[keep], size) for row, keep, size in zip(boxes, things, extent, strict=True)],
        positive=[
            F.one_hot(position[row.label[keep]], classes).bool() for row, keep in zip(boxes, things, strict=True)
        ],
        crowds=[scale_boxes(row.xyxy[_crowds(row)], size) for row, size in zip(boxes, extent, strict=True)],
        unknown=None if unknown is None else torch.stack(unknown),
        masks=_pad_masks(boxes, things, image_size),
    )


def select_classes(targets: Targets, chosen: Int[Tensor, " q"]) -> Targets:
    """With the columns of some classes alone, which every thing's class must be among."""
    return Targets(
        boxes=targets.boxes,
        positive=[rows[:, chosen] for rows in targets.positive],
        crowds=targets.crowds,
        unknown=None if targets.unknown is None else targets.unknown[:, chosen],
        masks=targets.masks,
    )


def phrase_targets(
    boxes: Sequence[Boxes],
    extent: Float[Tensor, "b 2"],
    *,
    text: Text,
    owner: Int[Tensor, " r"],
    embed: Float[Tensor, "r e"],
    ids: Int[Tensor, " b"],
    also_true: Sequence[Sequence[int]] = (),
) -> tuple[Targets, Float[Tensor, "q e"]]:
    """With one column for each different caption of all processes, and these columns' embeddings, with gradient.

    text, embed: the captions of the batch.  owner: the image of each, sorted.  ids: of the images.  also_true: for each caption,
    ids of other images that it describes, of which nobody said where; they learn nothing from it. Boxes of an image that are
    equal are one thing of several captions.
    """
    keys = [tuple(row[mask].tolist()) for row, mask in zip(text.ids, text.mask, strict=True)]
    every, described = gather_lists(keys), gather_lists(list(also_true))
    rows: dict[tuple[int, ...], int] = {}  # the first of each
    for row, key in enumerate(every):
        rows.setdefault(key, row)
    columns = {key: column for column, key in enumerate(rows)}
    queries = gather(embed)[torch.tensor(list(rows.values()), device=embed.device, dtype=torch.int64)]
    own: dict[int, int] = {}  # the first caption of each image of this process
    for row, image in enumerate(owner.tolist()):
        own.setdefault(image, row)
    column_of = torch.tensor([columns[key] for key in keys], device=embed.device, dtype=torch.int64)
    unknown = torch.zeros(len(boxes), len(columns), dtype=torch.bool, device=embed.device)
    for key, images in zip(every if described else (), described, strict=True):
        if images:
            unknown[torch.isin(ids, torch.tensor(list(images), device=ids.device)), columns[key]] = True
    things, positive = [], []
    for image, (one, size) in enumerate(zip(boxes, extent, strict=True)):
        distinct, inverse = one.xyxy.unique(dim=0, return_inverse=True)
        marks = torch.zeros(len(distinct), len(columns), dtype=torch.bool, device=embed.device)
        if len(one.label):
            marks[inverse, column_of[own[image] + one.label]] = True
        unknown[image] &= ~marks.any(0)
        things.append(scale_boxes(distinct, size))
        positive.append(marks)
    none = [row.xyxy[:0] for row in boxes]
    return Targets(boxes=things, positive=positive, crowds=none, unknown=unknown), queries


def scale_boxes(boxes: Float[Tensor, "m 4"], extent: Float[Tensor, " 2"]) -> Float[Tensor, "m 4"]:
    """From [0, 1] of an image to that of the padded tensor."""
    return boxes.to(extent.dtype) * extent.repeat(2)


def _known(row: Boxes, position: Int[Tensor, " names"]) -> Bool[Tensor, " m"]:
    return (row.label >= 0) & (position[row.label.clamp(min=0)] >= 0)


def _crowds(row: Boxes) -> Bool[Tensor, " m"]:
    return torch.zeros_like(row.label, dtype=torch.bool) if row.crowd is None else row.crowd


def _unknown(row: Boxes, position: Int[Tensor, " names"], classes: int) -> Bool[Tensor, " classes"]:
    """Classes that nobody looked for, or of which not every thing has a box (Gupta et al., LVIS, arXiv:1908.03195)."""
    unknown = torch.ones(classes, dtype=torch.bool, device=row.label.device)
    if row.absent is None:
        return ~unknown
    looked_for = position[torch.cat([row.absent, row.label[row.label >= 0]])]
    unknown[looked_for[looked_for >= 0]] = False
    incomplete = position[row.not_exhaustive] if row.not_exhaustive is not None else looked_for[:0]
    unknown[incomplete[incomplete >= 0]] = True
    return unknown


def _pad_masks(
    boxes: Sequence[Boxes], kept: Sequence[Bool[Tensor, " _"]], size: tuple[int, int]
) -> list[Bool[Tensor, "_ h w"]] | None:
    """At the size of the padded images; None where an image with things has none."""
    masks = []
    for row, keep in zip(boxes, kept, strict=True):
        if row.mask is None:
            if bool(keep.any()):
                return None
            masks.append(torch.zeros(0, *size, dtype=torch.bool, device=keep.device))
            continue
        mask = row.mask[keep]
        masks.append(F.pad(mask, (0, size[1] - mask.shape[2], 0, size[0] - mask.shape[1])))
    return masks
