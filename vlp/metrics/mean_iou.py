"""Intersection over union of classes of pixels, from one confusion matrix over all photos: a mean over photos or batches of
their own figures is another number.

Two rules are in use, which differ by a class that is predicted somewhere and nowhere true: mmsegmentation counts it with 0
(mmseg/evaluation/metrics/iou_metric.py: the mean over classes of a union above 0), detectron2 leaves it out
(detectron2/evaluation/sem_seg_evaluation.py: `acc_valid & (union > 0)`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from vlp.system.errors import UserError

IGNORED = 255  # a true value that is not counted


def confusion_matrix(
    truth: Integer[Tensor, "*pixels"], predicted: Integer[Tensor, "*pixels"], classes: int
) -> Int[Tensor, "{classes} {classes}"]:
    """Pixels by true class (rows) and predicted class (columns), without those of the value 255.  Raises UserError for another
    class than 0 … classes − 1."""
    counted = truth != IGNORED
    truth, predicted = truth[counted].long(), predicted[counted].long()
    for name, values in (("the segmentation", truth), ("the prediction", predicted)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise UserError(f"{name} has a pixel of class {int(values.max())}, and there are {classes} classes, from 0")
    return torch.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_ious(confusion: Int[Tensor, "c c"]) -> Float[Tensor, " c"]:
    """From 0 to 1 in float64; NaN for a class that is neither true nor predicted."""
    hits = confusion.diagonal().double()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def mean_iou(confusion: Int[Tensor, "c c"]) -> dict[str, float | None]:
    """In percent: miou by mmsegmentation's rule, miou_present by detectron2's, and the share of correct pixels.  None if no
    pixel is counted."""
    if not int(confusion.sum()):
        return {"miou": None, "miou_present": None, "pixel_accuracy": None}
    ious = class_ious(confusion)
    return {
        "miou": 100 * float(ious.nanmean()),
        "miou_present": 100 * float(ious[confusion.sum(1) > 0].mean()),
        "pixel_accuracy": 100 * float(confusion.diagonal().sum() / confusion.sum().double()),
    }
