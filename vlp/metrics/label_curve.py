"""Figures against the number of labels: means over draws with intervals, and how many labels another figure is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

# Student's t at 97.5 %, for 1, 2, … degrees of freedom
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half of the 95 % interval of the mean over draws; None for one draw."""
    if len(values) < 2:
        return fmean(values), None
    t = _T[len(values) - 2] if len(values) - 2 < len(_T) else 1.96
    return fmean(values), t * stdev(values) / math.sqrt(len(values))


def labels_worth(points: Sequence[tuple[float, float]], figure: float) -> float | None:
    """Where a curve of (labels, figure), in ascending order of labels, first reaches the figure, interpolated over the
    logarithm of the labels; the first point's labels if it is that high already, None if no point is."""
    before: tuple[float, float] | None = None
    for labels, value in points:
        if value >= figure:
            if before is None:
                return labels
            share = (figure - before[1]) / (value - before[1])
            return math.exp(math.log(before[0]) + share * (math.log(labels) - math.log(before[0])))
        before = labels, value
    return None
