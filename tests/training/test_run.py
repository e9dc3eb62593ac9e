"""A whole run in a real process: the folder it leaves, and that its checkpoint alone rebuilds the model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import vlp
from tests.warm_python import warm_python
from vlp.checkpoints.load import load_weights
from vlp.models.fusion.late import LateFusion

ROOT = Path(__file__).resolve().parent.parent.parent
TINY = (
    "data.images.train=48", "data.images.val=8", "data.images.test=8", "data.batch_size=16", "data.num_workers=0",
    "tokenizer.size=400", "model.vision.channels=4", "model.text.width=32", "trainer.max_epochs=2",
    "callbacks.baseline.train_images=20", "trainer.log_every_n_steps=1",
)  # fmt: skip


def train(folder: Path, *overrides: str) -> tuple[Path, str]:
    environment = os.environ | {"VLP_DATA": str(folder / "data"), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    command = [
        warm_python(),
        "train.py",
        f"runs={folder / 'runs'}",
        f"data.root={folder / 'scenes'}",
        *TINY,
        *overrides,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (folder / "runs" / "scenes").iterdir()
    return run, done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return train(tmp_path_factory.mktemp("run"))


def test_prints_the_table_beside_baseline_and_chance(finished: tuple[Path, str]) -> None:
    _, printed = finished
    for word in ("model", "ridge baseline", "chance", "R@1", "compositionality, accuracy", "samples/s"):
        assert word in printed


def test_results_hold_figures_cost_and_card(finished: tuple[Path, str]) -> None:
    run, _ = finished
    results = json.loads((run / "results.json").read_text())
    for direction in ("image_to_text", "text_to_image"):
        assert (
            0
            <= results[f"test/scenes/retrieval/{direction}_r1"]
            <= results[f"test/scenes/retrieval/{direction}_r10"]
            <= 100
        )
    assert results["samples_seen"] == 2 * 48
    assert results["test/captions"] == 5 * results["test/images"] == 40
    assert len(results["test/sha256"]) == 64
    assert results["seed"] == 0
    assert torch.__version__.startswith(results["version/torch"])


def test_val_figures_are_those_of_the_weights_that_were_tested(finished: tuple[Path, str]) -> None:
    run, _ = finished
    results = json.loads((run / "results.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    key = "val/scenes/retrieval/rsum"
    assert results[key] == pytest.approx(max(line[key] for line in lines if key in line), abs=1e-4)


def test_metrics_are_lines_of_named_figures(finished: tuple[Path, str]) -> None:
    run, _ = finished
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/scenes/itc/loss" in line]
    assert steps == [0, 1, 2, 3, 4, 5]
    assert sum("val/scenes/retrieval/rsum" in line for line in lines) == 2


def test_pictures_lie_in_the_folder_and_in_wandb(finished: tuple[Path, str]) -> None:
    run, _ = finished
    names = {path.name for path in (run / "plots").glob("*.png")}
    wanted = {"curves.png"} | {
        f"test_retrieval_{kind}.png" for kind in ("similarity", "image_to_text", "text_to_image")
    }
    assert wanted <= names
    assert list(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(list(run.glob("wandb/offline-run-*/files/media/images/**/*.png"))) >= 4


def test_the_checkpoint_alone_is_enough(finished: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = finished
    best = run / "checkpoints" / "best.ckpt"
    content = torch.load(best, map_location="cpu", weights_only=True)
    assert content["config"]["model"]["vision"]["channels"] == 4
    alone = tmp_path / "moved.ckpt"
    alone.write_bytes(best.read_bytes())
    from_file, from_folder = vlp.load(alone), vlp.load(run)
    texts = ["a red circle", "two blue squares"]
    images = sorted((run.parents[2] / "scenes").rglob("COCO_test_*.png"))[:3]
    assert from_file.similarity(images, texts).shape == (3, 2)
    torch.testing.assert_close(from_file.similarity(images, texts), from_folder.similarity(images, texts))


def test_starts_from_the_weights_of_a_checkpoint(finished: tuple[Path, str]) -> None:
    run, _ = finished
    best = run / "checkpoints" / "best.ckpt"
    model = vlp.load(best).model
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    load_weights(best, model, {})
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    model.fusion = LateFusion(image_width=4, text_width=4)  # which the file lacks
    for parameter in model.text.parameters():
        torch.nn.init.zeros_(parameter)
    assert load_weights(best, model, {}) == [f"checkpoint={best} has no fusion, which is initialised from scratch"]
    assert all(torch.equal(value, trained[f"text.{name}"]) for name, value in model.text.state_dict().items())
    model.vision = model.text
    with pytest.raises(ValueError, match=f"checkpoint={best} is of another architecture than model="):
        load_weights(best, model, {})


def test_evaluate_measures_a_run_as_the_run_did(finished: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = finished
    command = [warm_python(), "evaluate.py", f"checkpoint={run}", f"runs={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    again = json.loads(next(tmp_path.rglob("results.json")).read_text())
    first = json.loads((run / "results.json").read_text())
    figures = {key: value for key, value in first.items() if key.startswith("test/scenes/") and "baseline" not in key}
    assert {key.split("/")[2] for key in figures} >= {"retrieval", "compositionality"}
    assert {key: again.get(key) for key in figures} == pytest.approx(figures, abs=1e-4)


def test_an_evaluation_that_measures_nothing_fails(finished: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = finished
    command = [warm_python(), "evaluate.py", f"checkpoint={run}", "task=[matching]", f"runs={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("results.json"))


def test_a_damaged_training_photo_does_not_end_a_finished_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    """The baseline is fitted on what training could read."""
    run, _ = finished
    shutil.copytree(run.parents[2] / "scenes", tmp_path / "scenes")
    photo = sorted((tmp_path / "scenes").rglob("COCO_train_*.png"))[0]
    photo.write_bytes(photo.read_bytes()[:100])
    damaged, printed = train(tmp_path, "data.max_bad_fraction=0.1", "trainer.max_epochs=1")
    assert "ridge baseline" in printed
    assert len((damaged / "data_issues.jsonl").read_text().splitlines()) == 1
