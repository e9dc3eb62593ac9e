"""The boxes of a sample as its view shows them: cut at its edges, with their classes or captions, crowds and masks."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from vlp.data.images import ImageError
from vlp.data.issues import DataError
from vlp.data.masks import decode_mask
from vlp.data.view import View
from vlp.structures import Boxes, Sample

MASK_PIXELS = 1 << 22  # of the masks that are resampled at once
SMALLEST_SIDE = 1.0  # pixels of the view; in training, smaller remains of a box are left out


def project_sample_boxes(
    sample: Sample, view: View, photo_size: tuple[int, int], captions: list[int], *, training: bool
) -> Boxes:
    """The boxes of which the view shows something, in [0, 1] of it.

    photo_size: width and height of the full photo.  captions: those chosen for this epoch; boxes of others are left out,
    and the label of a box is the position of its caption among them.  In training, boxes of which less than a pixel's
    width or height is left (a far thing that was scaled down, or the edge of one) are left out too; in evaluation every
    box stays.  Raises ImageError for a mask that cannot be decoded.
    """
    assert sample.boxes is not None
    corners, visible = view.project_boxes(sample.boxes)
    if sample.box_labels or not sample.captions:
        labels = [sample.box_labels[i] if sample.box_labels else -1 for i in visible]
    else:
        position = {caption: place for place, caption in enumerate(captions)}
        labels = [position.get(sample.box_captions[i] if sample.box_captions else i, -1) for i in visible]
    label = torch.tensor(labels, dtype=torch.int64)
    kept = torch.ones(len(visible), dtype=torch.bool)
    if not sample.box_labels and sample.captions:
        kept &= label >= 0
    if training:
        sides = (corners[:, 2:] - corners[:, :2]) * corners.new_tensor([view.size[1], view.size[0]])
        kept &= (sides >= SMALLEST_SIDE).all(1)
    visible = [index for index, keep in zip(visible, kept.tolist(), strict=True) if keep]
    federated = sample.absent_categories is not None
    return Boxes(
        xyxy=corners[kept],
        label=label[kept],
        crowd=torch.tensor([sample.box_crowds[i] for i in visible], dtype=torch.bool) if sample.box_crowds else None,
        mask=_masks(sample, view, photo_size, visible) if sample.box_masks else None,
        absent=torch.tensor(sample.absent_categories, dtype=torch.int64) if federated else None,
        not_exhaustive=torch.tensor(sample.not_exhaustive, dtype=torch.int64) if federated else None,
        index=torch.tensor(visible, dtype=torch.int64) if sample.tags else None,
    )


def _masks(sample: Sample, view: View, photo_size: tuple[int, int], chosen: list[int]) -> Bool[Tensor, "m h w"]:
    width, height = photo_size
    together = max(1, MASK_PIXELS // (width * height))  # masks of a large photo are large
    resampled = [torch.zeros(0, *view.size, dtype=torch.bool)]
    for first in range(0, len(chosen), together):
        part = chosen[first : first + together]
        try:
            decoded = [decode_mask(sample.box_masks[index], height=height, width=width) for index in part]
        except DataError as error:
            raise ImageError(f"{sample.image}: {str(error).replace(': ', ', ')}") from error
        resampled.append(view.resample_masks(torch.from_numpy(np.stack(decoded))))
    return torch.cat(resampled)
