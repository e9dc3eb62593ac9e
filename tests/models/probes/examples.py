"""Classes as clouds of points, from a fixed seed."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vlp.models.probes.labelled import Labelled


def clouds(
    *, samples: int = 120, width: int = 8, classes: int = 3, noise: float = 1.0, exclusive: bool = True
) -> Labelled:
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    label = torch.arange(samples) % classes
    targets = F.one_hot(label, classes).bool()
    if not exclusive:
        targets |= torch.rand(samples, classes, generator=generator) < 0.3
    features = targets.double() @ centres + noise * torch.randn(
        samples, width, generator=generator, dtype=torch.float64
    )
    return Labelled(features=features + 2, targets=targets, exclusive=exclusive)
