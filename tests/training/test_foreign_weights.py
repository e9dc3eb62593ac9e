"""train.py and evaluate.py with weights of other codes: damaged files make no run folder, and what is assumed is printed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.clip_files import clip_state
from tests.runs import ROOT, run_environment
from tests.warm_python import warm_python

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 605247071\n"
PARTS = (
    "model/vision=vit_tiny", "model.vision.image_size=16", "model.vision.width=64", "model.vision.heads=1",
    "model.vision.layers=1", "model/text=clip_text_512", "model.text.width=64", "model.text.layers=1",
    "model.projection.width=32", "tokenizer=clip", "transform.train.image_size=16", "transform.eval.image_size=16",
)  # fmt: skip
DATA = (
    "data.images.train=16", "data.images.val=6", "data.images.test=6", "data.num_workers=0", "data.batch_size=8",
    "data.eval_batch_size=6", "task=[retrieval]", "logger=none",
)  # fmt: skip


def run(script: str, folder: Path, *overrides: str) -> tuple[int, str]:
    """Exit code and all that is printed; run folders are in folder/runs, scenes in folder/scenes."""
    command = [warm_python(), str(ROOT / script), f"runs={folder / 'runs'}", *overrides]
    done = subprocess.run(command, cwd=folder, env=run_environment(), capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def damaged(folder: Path, kind: str) -> Path:
    if kind == "pointer":
        path = folder / "ViT-B-32.pt"
        path.write_bytes(LFS)
        return path
    save_file({"logit_scale": torch.zeros(500)}, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    (folder / "config.json").write_text('{"model_type": "clip"}')
    return folder if kind == "folder" else folder / "model.safetensors"


@pytest.mark.parametrize(
    ("script", "setting", "kind", "message"),
    [
        ("train.py", "checkpoint", "pointer", "is a Git LFS pointer"),
        ("train.py", "checkpoint", "folder", "model.safetensors is cut off: it has 1,040 of 2,080 bytes"),
        ("train.py", "resume", "pointer", "is a Git LFS pointer"),
        ("train.py", "model/vision=timm model.vision.weights", "file", "model.safetensors is cut off"),
        ("evaluate.py", "checkpoint", "folder", "model.safetensors is cut off"),
        ("evaluate.py", "checkpoint", "pointer", "is a Git LFS pointer"),
    ],
)
def test_damaged_weights_start_no_run(tmp_path: Path, script: str, setting: str, kind: str, message: str) -> None:
    path = damaged(tmp_path, kind)
    code, printed = run(script, tmp_path, *f"{setting}={path}".split(), "data=scenes")
    assert code == 2, printed
    (line,) = printed.strip().splitlines()
    assert line.startswith(f"{script.removesuffix('.py')}: {setting.split()[-1]}={path}: ")
    assert message in line
    assert not (tmp_path / "runs").exists()


def test_partial_weights_need_a_checkpoint(tmp_path: Path) -> None:
    code, printed = run("train.py", tmp_path, "checkpoint_strict=false")
    assert (code, (tmp_path / "runs").exists()) == (2, False)
    assert "checkpoint_strict=false is about the weights of checkpoint=PATH" in printed


@pytest.fixture
def clip_file(tmp_path: Path) -> Path:
    """A training file of open_clip without its config."""
    state = clip_state(1, vocabulary_size=49408, context_length=77)
    torch.save(
        {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "epoch_1.pt"
    )
    return tmp_path / "epoch_1.pt"


@pytest.mark.slow
def test_evaluation_names_the_assumed_activation_and_takes_another(clip_file: Path) -> None:
    overrides = [f"checkpoint={clip_file}", "data=scenes", f"data.root={clip_file.parent / 'scenes'}", *DATA[:-2]]
    code, printed = run("evaluate.py", clip_file.parent, *overrides)
    assert code == 0, printed
    assert printed.count("assumed: activation=gelu") == 1
    assert "evaluate.py architecture.activation=…" in printed
    code, printed = run("evaluate.py", clip_file.parent, *overrides, "architecture.activation=quick_gelu", "name=other")
    assert code == 0, printed
    assert "assumed" not in printed
    first, other = (
        json.loads(next((clip_file.parent / "runs" / name).rglob("results.json")).read_text())
        for name in ("evaluate", "other")
    )
    assert first.keys() == other.keys()


@pytest.mark.slow
def test_training_says_which_settings_it_uses_and_what_it_took(clip_file: Path) -> None:
    overrides = [f"checkpoint={clip_file}", "data=scenes", f"data.root={clip_file.parent / 'scenes'}", *PARTS, *DATA]
    code, printed = run("train.py", clip_file.parent, *overrides, "trainer.max_epochs=1")
    assert code == 0, printed
    assert printed.count("does not contain these settings, so the run's are used: ") == 1
    assert "model.text.activation=quick_gelu" in printed
    code, printed = run(
        "train.py",
        clip_file.parent,
        *overrides,
        "trainer.max_epochs=1",
        "model.vision.layers=2",
        "checkpoint_strict=false",
    )
    assert code == 0, printed
    assert f"checkpoint={clip_file} took 38 of the model's 50 tensors: vision.class_token, " in printed
    assert (
        f"checkpoint={clip_file} does not set 12 tensors, which start from scratch: vision.blocks.1.norm1.weight"
        in printed
    )
