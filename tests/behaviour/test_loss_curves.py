"""Twenty steps of each family against stored losses: they detect a refactor that changes the arithmetic.

In float64, so that rounding differences between processors are far smaller than an error. Weights of the families with a fusion
are drawn in float64 too: their losses agree to 1e-15 with any vector instructions. After an intended change
`python -m tests.behaviour.test_loss_curves [FAMILY …]` stores the losses of these families, or of all, again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.test_vlm import model
from vlp.build import build
from vlp.models.features import compute_features
from vlp.models.momentum import MomentumCopy
from vlp.structures import Batch, Image, Text
from vlp.tokenizers.trained import TrainedTokenizer
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
SMALL_FUSION = ("model.fusion.width=32", "model.fusion.layers=2", "model.fusion.heads=2")
WITH_FUSION: dict[str, tuple[tuple[str, ...], dict[str, dict[str, Any]]]] = {  # overrides, and objectives with their arguments
    "albef": (
        (
            "model=albef_tiny", "model.vision.image_size=32", "model.vision.channels=4", "model.text.width=32",
            "model.text.heads=2", "model.projection.width=16", *SMALL_FUSION,
        ),
        {
            "itc.ITC": {"queue_size": 13, "width": 16, "distillation": 0.4, "distillation_warmup": 10},
            "itm.ITM": {"width": 32, "momentum": True},
            "mlm.MLM": {"width": 32, "vocabulary_size": 300, "distillation": 0.4},
        },
    ),
    "vilt": (
        (
            "model=vilt_tiny", "model.vision.image_size=32", "model.vision.width=32", "model.text.width=32", "model.text.heads=2",
            *SMALL_FUSION,
        ),
        {
            "itm.ITM": {"width": 32, "contrastive": False},
            "mlm.MLM": {"width": 32, "vocabulary_size": 300, "tied": False},
            "wpa.WPA": {"weight": 0.1},
        },
    ),
    "encoder_decoder": (
        (
            "model=encoder_decoder_vqa_tiny", "model.vision.image_size=32", "model.vision.channels=4", "model.text.width=32",
            "model.text.heads=2", "model.decoder.width=32", "model.decoder.heads=2", *SMALL_FUSION,
        ),
        {"lm.LM": {"label_smoothing": 0.1, "distillation": 0.4, "distillation_warmup": 10}, "vqa.VQA": {"weight": 1.0}},
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
        network.clamp_parameters()
        losses.append(float(loss.detach()))
    return losses


def tokenizer() -> TrainedTokenizer:
    trained = TrainedTokenizer(size=300)
    trained.train(["a red circle above a blue square", "two green triangles"])
    return trained


def batches(side: int, words: TrainedTokenizer) -> Iterator[Batch]:
    """Random pixels, captions, and questions with two answers each; two of the captions belong to one image."""
    generator, index = torch.Generator().manual_seed(1), torch.arange(ROWS)

    def texts(rows: int, longest: int) -> Text:
        ids = torch.randint(3, words.size - 2, (rows, longest), generator=generator)
        mask = torch.arange(longest)[None] < torch.randint(4, longest + 1, (rows, 1), generator=generator)
        ids[:, 0] = words.start_id
        ids[torch.arange(rows), mask.sum(1) - 1] = words.end_id
        return Text(ids=ids * mask, mask=mask)

    for step in range(STEPS):
        pixels = torch.randint(0, 256, (ROWS, 3, side, side), dtype=torch.uint8, generator=generator)
        answers = texts(2 * ROWS, 5)
        yield Batch(
            id=(index + ROWS * step).where(index != 5, ROWS * step), sample=index, seed=index + ROWS * step,
            image=Image(pixels=pixels), caption=texts(ROWS, 12), question=texts(ROWS, 9),
            answer=Text(ids=answers.ids.view(ROWS, 2, 5), mask=answers.mask.view(ROWS, 2, 5)),
            answer_weight=torch.rand(ROWS, 2, generator=generator, dtype=torch.float64),
        )  # fmt: skip


def with_objectives(family: str, words: TrainedTokenizer) -> Any:
    """The model and its objectives. Weights are drawn in float64: in float32 they depend on the processor's instructions."""
    torch.manual_seed(0)
    overrides, chosen = WITH_FUSION[family]
    torch.set_default_dtype(torch.float64)
    try:
        network = model(*overrides, size=words.size, device="cpu")
        objectives = torch.nn.ModuleDict()
        for name, arguments in chosen.items():
            package = "tasks" if name == "vqa.VQA" else "objectives"
            objectives[name.partition(".")[0]] = build({"_target_": f"vlp.{package}.{name}", **arguments})
    finally:
        torch.set_default_dtype(torch.float32)
    return torch.nn.ModuleDict({"model": network, "objectives": objectives}).double().train()


def curve_with_fusion(family: str) -> list[float]:
    """As `curve`, with several objectives and soft targets of a momentum model."""
    words = tokenizer()
    module = with_objectives(family, words)
    network, objectives = module["model"], module["objectives"]
    copy = MomentumCopy(network, dict(objectives.items()), decay=0.9)
    for objective in objectives.values():
        objective.prepare(network, words, None)
    optimizer, losses = AdamW(lr=1e-3)(module), []
    uses = {field for objective in objectives.values() for field in objective.uses}
    for step, batch in enumerate(batches(network.vision.image_size, words)):
        copy.step()
        features = compute_features(network, batch, uses, step=step, momentum=copy)
        loss = sum(objective.weight * objective(network, batch, features).value for objective in objectives.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        network.clamp_parameters()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps(family: str) -> None:
    assert curve(family) == pytest.approx(json.loads(FILE.read_text())[family], rel=1e-9)


@pytest.mark.parametrize("family", WITH_FUSION)
def test_twenty_steps_with_a_fusion(family: str) -> None:
    assert curve_with_fusion(family) == pytest.approx(json.loads(FILE.read_text())[family], rel=1e-9)


if __name__ == "__main__":
    stored = json.loads(FILE.read_text())
    for name in sys.argv[1:] or [*FAMILIES, *WITH_FUSION]:
        stored[name] = curve(name) if name in FAMILIES else curve_with_fusion(name)
    FILE.write_text(json.dumps(stored, indent=1) + "\n")
