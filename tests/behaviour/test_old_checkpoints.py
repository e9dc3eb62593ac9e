"""Checkpoints of earlier versions, stored next to this file, are still loaded and resumed.

format_1.ckpt is the last checkpoint of a run of SETTINGS with trainer.max_steps=7, which ends within the second epoch of
five steps. Its data are generated scenes, CC0.
"""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest
import torch

import vlp
from tests.runs import SMALL_CLIP, finish_run, logged_lines, make_run_folder
from vlp.checkpoints.tensor_files import FORMAT, read

SETTINGS = (
    *SMALL_CLIP, "model.text.width=8", "model.text.heads=2", "model.projection.width=4", "tokenizer.size=280",
    "schedule=constant", "schedule.warmup=0",
)  # fmt: skip
HERE = Path(__file__).parent
SIMILARITY = [[11.1747, 11.4297], [11.1423, 11.3990]]
LOSSES = {7: 2.3886962, 8: 2.3550047}


def test_a_model_of_format_1() -> None:
    predictor = vlp.load(HERE / "format_1.ckpt")
    pictures = [
        PIL.Image.new("RGB", (64, 64), (200, 30, 60)),
        PIL.Image.linear_gradient("L").resize((64, 64)).convert("RGB"),
    ]
    similarity = predictor.similarity(pictures, ["a red circle", "two blue squares"])
    torch.testing.assert_close(similarity, torch.tensor(SIMILARITY), atol=1e-4, rtol=0)


def test_a_run_of_format_1_resumes(tmp_path: Path) -> None:
    extended = ("trainer.max_steps=9", f"resume={HERE / 'format_1.ckpt'}", "force=true")
    run = make_run_folder(tmp_path / "run", *SETTINGS, *extended, data=tmp_path / "scenes")
    finish_run(run)
    losses = {
        line["step"]: line["train/scenes/itc/loss"] for line in logged_lines(run) if "train/scenes/itc/loss" in line
    }
    assert losses == pytest.approx(LOSSES, abs=1e-3)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    content = read(HERE / "format_1.ckpt")
    assert content["vlp_format"] == FORMAT == 1, "keep a file of the format before beside this one, with its tests"
    torch.save({**content, "vlp_format": FORMAT + 1}, tmp_path / "later.ckpt")
    with pytest.raises(ValueError, match="was written by a later vlp"):
        vlp.load(tmp_path / "later.ckpt")
