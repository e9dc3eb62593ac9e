"""A small single-stream model in float64 and batches of images of different sizes, whole and as two processes see them."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from tests.objectives.contrast import Step, gradients
from tests.processes import run_processes
from vlp.data.collate import pad_images
from vlp.models.fusion.single_stream import SingleStreamFusion
from vlp.models.text.bert import BertText
from vlp.models.vision.vilt_patches import ViltPatches
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.objectives.irtr import IRTR
from vlp.objectives.wpa import WPA
from vlp.structures import Batch, Text

SPLIT = 5  # rows of the first process, whose images are all small; the second's are larger and of two sizes
NAMES = ("wpa", "irtr")


def model() -> VisionLanguageModel:
    torch.manual_seed(0)
    built = VisionLanguageModel(
        vision=ViltPatches(image_size=16, patch_size=8, width=8, dropout=0.0),
        text=BertText(vocabulary_size=30, context_length=8, width=8, layers=0, dropout=0.0),
        fusion=SingleStreamFusion(image_width=8, text_width=8, width=8, layers=1, heads=2, dropout=0.0),
    )
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return built.double()


def single_stream_batch(rows: slice = slice(None)) -> Batch:
    """12 samples; 1 and 7 are captions of one image."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.arange(12)
    ids[7] = ids[1]
    sizes = [(16, 16) if row in (0, 1, 2, 3, 4, 7) else (24, 16) if row % 2 else (8, 40) for row in range(12)]
    pictures = [torch.randn(3, *sizes[row], generator=generator, dtype=torch.float64) for row in range(12)]
    pictures[7] = pictures[1]
    mask = torch.arange(7)[None] < torch.randint(4, 8, (12, 1), generator=generator)
    tokens = torch.randint(1, 30, (12, 7), generator=generator) * mask
    return Batch(
        id=ids[rows],
        sample=torch.arange(12)[rows],
        seed=torch.arange(12)[rows],
        image=pad_images(pictures[rows]),
        caption=Text(ids=tokens, mask=mask).select(rows),
    )


def step(name: str) -> Step:
    torch.manual_seed(3)
    objective: Objective = WPA() if name == "wpa" else IRTR(width=8, negatives=4)
    made = Step(objective, None)
    made.model = model()
    if name == "wpa":
        made.model.fusion.pooler.requires_grad_(False)  # nobody reads it
    return made


def _on_rank(rank: int, world: int) -> list[dict[str, Any]]:
    rows = slice(0, SPLIT) if rank == 0 else slice(SPLIT, None)
    return [gradients(DistributedDataParallel(step(name)), single_stream_batch(rows)) for name in NAMES]


@functools.cache
def on_two_ranks() -> list[list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        return run_processes(2, _on_rank, Path(folder))


def assert_two_processes_equal_one(name: str) -> None:
    one = gradients(step(name), single_stream_batch())
    for rank in on_two_ranks():
        two = rank[NAMES.index(name)]
        assert abs(one["loss"] - two["loss"]) < 1e-12
        for key, gradient in one["gradients"].items():
            torch.testing.assert_close(two["gradients"][key], gradient, rtol=0, atol=1e-12, msg=key)
