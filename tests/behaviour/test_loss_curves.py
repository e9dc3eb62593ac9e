"""Twenty steps of each family against stored losses: a refactor that changes the arithmetic is seen here.

In float64, so that processors with other instructions agree to far more digits than an error would leave. After a
change that is meant: `python -m tests.behaviour.test_loss_curves` writes the file anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.models.test_vlm import model
from vlp.build import build
from vlp.models.features import compute_features
from vlp.structures import Batch, Image, Text
from vlp.training.optimizer import AdamW

FILE = Path(__file__).with_name("loss_curves.json")
STEPS, ROWS, VOCABULARY = 20, 8, 200
SMALL_TEXT = ("model.text.width=64", "model.text.layers=2", "model.text.heads=2")
FAMILIES = {
    "clip_tiny": ("model=clip_tiny",),
    "clip_vit": (
        "model=clip_vit_b32", "model.vision.image_size=32", "model.vision.patch_size=8", "model.vision.width=64",
        "model.vision.layers=2", "model.vision.heads=2", "model.projection.width=32", *SMALL_TEXT,
    ),
    "clip_resnet": (
        "model=clip_rn50", "model.vision.image_size=32", "model.vision.layers=[1,1,1,1]", "model.vision.stem_width=8",
        "model.vision.heads=4", "model.vision.width=32", *SMALL_TEXT,
    ),
    "siglip": (
        "model=siglip", "model.vision.image_size=32", "model.vision.patch_size=8", "model.vision.width=64",
        "model.vision.layers=2", "model.vision.heads=2", "model.projection.width=32", *SMALL_TEXT,
    ),
}  # fmt: skip


def curve(family: str) -> list[float]:
    torch.manual_seed(0)
    network = model(*FAMILIES[family], size=VOCABULARY, device="cpu").double().train()
    name = "siglip" if family == "siglip" else "itc"
    objective = build({"_target_": f"vlp.objectives.{name}.{'SigLIP' if name == 'siglip' else 'ITC'}"})
    optimizer, side = AdamW(lr=1e-3)(network), network.vision.image_size
    generator, losses = torch.Generator().manual_seed(1), []
    index = torch.arange(ROWS)
    for step in range(STEPS):
        ids = torch.randint(3, VOCABULARY, (ROWS, 12), generator=generator)
        mask = torch.arange(12)[None] < torch.randint(4, 13, (ROWS, 1), generator=generator)
        ids[index, mask.sum(1) - 1] = VOCABULARY - 1  # CLIP's end token is the highest id
        pixels = torch.randint(0, 256, (ROWS, 3, side, side), dtype=torch.uint8, generator=generator)
        batch = Batch(
            id=index + ROWS * step, sample=index, seed=index,
            image=Image(pixels=pixels), caption=Text(ids=ids * mask, mask=mask),
        )  # fmt: skip
        loss = objective(network, batch, compute_features(network, batch, objective.uses, step=step)).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        network.constrain()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps(family: str) -> None:
    assert curve(family) == pytest.approx(json.loads(FILE.read_text())[family], rel=1e-9)


if __name__ == "__main__":
    FILE.write_text(json.dumps({family: curve(family) for family in FAMILIES}, indent=1) + "\n")
