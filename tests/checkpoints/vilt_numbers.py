"""ViLT's recorded inputs as ours, and a checkpoint opened with its heads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from vlp.build import build
from vlp.checkpoints import load
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Text


def opened(path: Path) -> tuple[Checkpoint, VisionLanguageModel, nn.ModuleDict]:
    checkpoint = load.read(path, {})
    heads = nn.ModuleDict(build(checkpoint.config["objectives"]))
    heads.load_state_dict(checkpoint.heads)
    return checkpoint, load.build_model(checkpoint), heads.eval()


def image(pixels: Tensor) -> Image:
    """The recorded images are padded with zeros, and nothing else in them sums to zero."""
    real = pixels.sum(-3) != 0
    return Image(pixels=pixels, size=torch.stack([real.any(-1).sum(-1), real.any(-2).sum(-1)], dim=-1))


def text(inputs: dict[str, Tensor], name: str = "text_ids", mask: str = "text_masks") -> Text:
    return Text(ids=inputs[name], mask=inputs[mask].bool())


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
