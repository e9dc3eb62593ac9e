"""A run with adapters that is stopped and resumed equals the one without an interruption, and its checkpoint is a plain model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vlp
from tests.runs import SMALL_CLIP, assert_equal, load_checkpoint, make_run_folder, train_here

ADAPTED = (
    *(word for word in SMALL_CLIP if not word.startswith(("task=", "data.images.train", "trainer.max_epochs"))),
    "data=scenes_classes", "data.images.train=16", "trainer.max_epochs=2", "objective=[]", "task=[classification]",
    "tasks.classification.weight=1.0", "tasks.classification.templates=[a {}]", "freeze=['^model\\.text\\.']",
    "monitor=val/scenes/classification/mean_average_precision",
)  # fmt: skip
LORA = "lora={rank: 2, alpha: 4, targets: '^vision'}"


def test_adapters_resume_bit_by_bit_and_are_read_as_their_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [make_run_folder(tmp_path / name, *ADAPTED, LORA, data=tmp_path / "scenes") for name in ("one", "parts")]
    straight, parts = folders
    results = train_here(straight)
    monkeypatch.setenv("VLP_FAULTS", "site=before_backward,step=3,kind=raise")
    with pytest.raises(RuntimeError):
        train_here(parts)
    monkeypatch.delenv("VLP_FAULTS")
    resumed = train_here(parts)
    assert results["steps"] == resumed["steps"] == 4
    for name in ("state_dict", "optimizer_states"):
        assert_equal(load_checkpoint(straight)[name], load_checkpoint(parts)[name], name)
    state = load_checkpoint(straight, "best.ckpt")["state_dict"]
    learned = {name for name in state if name.endswith(".parametrizations.weight.0.b")}
    assert learned
    assert any(float(state[name].abs().max()) > 0 for name in learned)
    predictor = vlp.load(parts / "checkpoints" / "best.ckpt")
    assert not any("parametrizations" in name for name in predictor.model.state_dict())
    name = "model.vision.last.parametrizations.weight"
    expected = state[f"{name}.original"] + (2 * state[f"{name}.0.b"] @ state[f"{name}.0.a"])[..., None, None]
    torch.testing.assert_close(predictor.model.state_dict()["vision.last.weight"], expected)
