"""Accuracy of images with one class and mean average precision of images with several. Tied classes share the credit, tied
images have the precision at the end of their tie, so no order of the data changes a figure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.metrics.recall import count_ties, expected_hit

ROWS_PER_STEP = 4096


def exclusive_figures(scores: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> dict[str, float]:
    """`accuracy_figures` of scores.  label: none unknown."""
    parts = zip(scores.split(ROWS_PER_STEP), label.split(ROWS_PER_STEP), strict=True)
    return accuracy_figures(torch.cat([label_ties(*part) for part in parts]), label)


def label_ties(scores: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> Int[Tensor, "n 3"]:
    """See `count_ties`."""
    return count_ties(scores, F.one_hot(label, scores.shape[1]).bool())


def accuracy_figures(ties: Int[Tensor, "n 3"], label: Int[Tensor, " n"]) -> dict[str, float]:
    """top1, top5 and the mean over the classes that occur, in percent; how many `classes` and `images`."""
    top1, top5 = expected_hit(ties, 1), expected_hit(ties, 5)
    per_class = [top1[label == index].mean() for index in label.unique()]
    return {
        "top1": 100 * float(top1.mean()),
        "top5": 100 * float(top5.mean()),
        "mean_per_class": 100 * float(torch.stack(per_class).mean()),
        "classes": float(len(per_class)),
        "images": float(len(label)),
    }


def multi_label_figures(scores: Float[Tensor, "n c"], targets: Bool[Tensor, "n c"]) -> dict[str, float]:
    """mean_average_precision over the classes that occur, its 11-point form of VOC 2007, and top1 (the best class is one of the
    image's) over the images that have a class, in percent; how many `classes` and `images`."""
    occurs, has_class = targets.any(0), targets.any(1)
    area, eleven_points = average_precision(scores[:, occurs], targets[:, occurs])
    top1 = expected_hit(count_ties(scores[has_class], targets[has_class]), 1)
    return {
        "mean_average_precision": 100 * float(area.mean()),
        "mean_average_precision_11_points": 100 * float(eleven_points.mean()),
        "top1": 100 * float(top1.mean()),
        "classes": float(occurs.sum()),
        "images": float(len(targets)),
    }


def average_precision(
    scores: Float[Tensor, "n c"], targets: Bool[Tensor, "n c"]
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """In [0, 1], of each class, which must occur: the mean over its images of the precision at each, and the mean over recalls
    0, 0.1, …, 1 of the best precision at that recall or a higher one (Everingham et al., IJCV 2010, section 4.2)."""
    ordered, order = scores.double().sort(dim=0, descending=True)
    hits = targets.gather(0, order).double()
    rank = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)[:, None]
    last = torch.ones_like(hits, dtype=torch.bool)
    last[:-1] = ordered[:-1] != ordered[1:]
    end = torch.where(last, rank, len(scores) + 1).flip(0).cummin(0).values.flip(0).long() - 1  # of the tie of each row
    precision = (hits.cumsum(0) / rank).gather(0, end)
    recall = hits.cumsum(0).gather(0, end) / hits.sum(0)
    area = (hits * precision).sum(0) / hits.sum(0)
    levels = [torch.where(recall >= step / 10 - 1e-12, precision, 0.0).amax(0) for step in range(11)]
    return area, torch.stack(levels).mean(0)
