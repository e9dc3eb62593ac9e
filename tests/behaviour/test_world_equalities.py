"""Complete runs with one process and with two gloo processes, in float64 from one config, are equal.

Weights, batches, logged figures, early stopping, the config that ranks read, and resuming with another number of processes.
Losses of one batch: tests/objectives; samplers and augmentation: tests/data; evaluation: test_world_evaluation.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.warm_python import warm_python
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.folder import freeze

pytestmark = pytest.mark.slow  # real processes, several minutes in total

ROOT = Path(__file__).resolve().parents[2]
# 27 training images and batches of 8: three steps an epoch, and three samples left out; 11 images are no multiple of
# 2 ranks × 3, and of one test image the second rank has none. A tower without batch norms, whose statistics are of each
# rank's own share (trainer.sync_batchnorm=true on GPUs)
SETTINGS = (
    "data.images.train=27", "data.images.val=11", "data.images.test=1", "data.batch_size=8", "data.eval_batch_size=3",
    "data.num_workers=0", "data.captions=2", "model=clip_tiny", "model/vision=vit_tiny", "model.vision.width=24",
    "model.vision.layers=1", "model.text.width=16", "model.text.layers=1",
    "model.projection.width=8", "tokenizer.size=300", "objective=[itc]", "task=[retrieval,compositionality]",
    "optimizer=adamw", "optimizer.lr=0.01", "schedule=warmup_cosine", "schedule.warmup=3",
    "callbacks=[checkpoint,ema,ranks_agree]", "callbacks.ema.decay=0.9", "callbacks.checkpoint.every_n_epochs=null", "logger=none",
    "trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.max_epochs=9",
    "trainer.gradient_clip_val=0.1", "trainer.log_every_n_steps=1",
)  # fmt: skip
STEPS, MIDDLE = 12, 7  # of early stopping after the fourth epoch; of the checkpoint in the middle of the third


@dataclasses.dataclass(frozen=True)
class Run:
    folder: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def ranks(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("rank_*.json"))]

    def checkpoint(self, name: str) -> dict[str, Any]:
        return torch.load(self.folder / "checkpoints" / name, map_location="cpu", weights_only=True)

    def losses(self) -> dict[int, float]:
        key = "train/scenes/itc/loss"
        return {line["step"]: line[key] for line in self.lines if key in line}

    def batches(self) -> dict[str, list[int]]:
        """The samples of each step, of all ranks, as they are gathered."""
        ranks = self.ranks
        assert len({tuple(rank["samples"]) for rank in ranks}) == 1, "ranks make other steps"
        return {step: [sample for rank in ranks for sample in rank["samples"][step]] for step in ranks[0]["samples"]}


def train(folder: Path, name: str, processes: int, resume: Path | None = None) -> Run:
    overrides = [*SETTINGS, f"data.root={folder / 'scenes'}", f"trainer.devices={processes}"]
    overrides += [] if resume is None else [f"resume={resume}"]
    own = folder / name
    own.mkdir()
    container = resolve_config(Composer(conf=conf_folder(), config_name="train").compose(overrides), own)
    stop = {
        "monitor": container["monitor"],
        "mode": "max",
        "patience": 3,
        "min_delta": 1000.0,
        "check_on_train_epoch_end": False,
    }
    middle = {"dirpath": str(own / "checkpoints"), "filename": "middle", "every_n_train_steps": MIDDLE, "save_top_k": 1}
    container["callbacks"] |= {
        "early": {
            "_target_": "lightning.pytorch.callbacks.EarlyStopping",
            **stop,
        },  # an improvement by 1000 never comes
        "middle": {
            "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
            "enable_version_counter": False,
            **middle,
        },
        "notes": {"_target_": "tests.training.rank_notes.RankNotes", "folder": str(own)},
    }
    command = [warm_python(), "tests/training/double.py", str(freeze(own, container, "test"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return Run(own)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("worlds")
    return train(folder, "one", 1), train(folder, "two", 2)


def assert_close(actual: Any, expected: Any, path: str, tolerance: float) -> None:
    """Nested dicts and lists of tensors and numbers."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), path
        for key, value in expected.items():
            assert_close(actual[key], value, f"{path}.{key}", tolerance)
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), path
        for index, value in enumerate(expected):
            assert_close(actual[index], value, f"{path}[{index}]", tolerance)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance, msg=path)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, abs=tolerance, nan_ok=True), path
    else:
        assert actual == expected, path


@pytest.mark.slow
def test_all_weights_are_equal_after_twelve_steps(runs: tuple[Run, Run]) -> None:
    """AdamW with clipping, moving average and schedule; also the moments, the learning rate and the average."""
    one, two = (run.checkpoint("last.ckpt") for run in runs)
    assert one["global_step"] == two["global_step"] == STEPS
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        assert one[part], part
        assert_close(two[part], one[part], part, 1e-10)
    assert {value.dtype for value in one["state_dict"].values() if value.is_floating_point()} == {torch.float64}
    moved = [not torch.equal(value, one["current_model_state"][name]) for name, value in one["state_dict"].items()]
    assert any(moved), "the average equals the weights"
    norms = [line["train/scenes/itc/loss"] for line in runs[0].lines if "train/scenes/itc/loss" in line]
    assert len(set(norms)) == STEPS


@pytest.mark.slow
def test_weights_are_equal_across_ranks(runs: tuple[Run, Run]) -> None:
    """`ranks_agree` checked after every step and raised nothing; at the end each rank recorded the same weights."""
    (one,), (first, second) = (run.ranks for run in runs)
    assert (one["world"], first["world"]) == (1, 2)
    assert first["weights"] == second["weights"]
    assert "RanksAgree" in (runs[1].folder / "config.yaml").read_text()


@pytest.mark.slow
def test_global_batches_are_equal_and_in_order(runs: tuple[Run, Run]) -> None:
    """What the ranks gather is the batch of one process; a sample comes once in an epoch, and epochs differ."""
    one, two = (run.batches() for run in runs)
    assert one == two
    assert len(one) == STEPS
    epochs = [[sample for step in range(3 * e, 3 * e + 3) for sample in one[str(step)]] for e in range(4)]
    assert all(len(set(epoch)) == len(epoch) == 24 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.slow
def test_metrics_are_written_once_and_equal(runs: tuple[Run, Run]) -> None:
    """The lines of rank 0 alone, with the figures of one process; also of 11 and of one sample."""
    one, two = ([{k: v for k, v in line.items() if k != "time"} for line in run.lines] for run in runs)
    assert len(two) == len(one)
    assert [line["step"] for line in two if "train/scenes/itc/loss" in line] == list(range(STEPS))
    assert_close(two, one, "metrics", 1e-6)
    figures = {name for line in one for name in line}
    assert {
        "val/scenes/retrieval/rsum",
        "test/scenes/retrieval/rsum",
        "val/scenes/compositionality/accuracy",
    } <= figures
    results = [json.loads((run.folder / "results.json").read_text()) for run in runs]
    clocks = {name for name in results[0] if name.endswith("seconds")}
    assert_close(*({k: v for k, v in r.items() if k not in clocks} for r in results[::-1]), "results", 1e-6)
    assert (results[1]["val/images"], results[1]["test/images"]) == (11, 1)
    assert results[1]["samples_seen"] == STEPS * 8


@pytest.mark.slow
def test_early_stopping_is_one_decision(runs: tuple[Run, Run]) -> None:
    """Three validations without an improvement stop every rank after the same step of nine epochs."""
    for run in runs:
        assert [(rank["steps"], len(rank["figures"])) for rank in run.ranks] == [(STEPS, 4)] * len(run.ranks)
    first, second = runs[1].ranks
    assert first["figures"] == second["figures"], "ranks would decide by other figures"


@pytest.mark.slow
def test_all_ranks_read_one_config(runs: tuple[Run, Run]) -> None:
    """The frozen file in the run folder, the same bytes on each rank."""
    first, second = runs[1].ranks
    assert first["config"] == second["config"] == str(runs[1].folder / "config.yaml")
    assert first["sha256"] == second["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_checkpoint_resumes_with_another_number_of_processes(runs: tuple[Run, Run], before: int, after: int) -> None:
    """From the middle of an epoch: batches, losses and weights are equal."""
    straight = runs[before - 1]
    folder = straight.folder.parent
    middle = straight.folder / "checkpoints" / "middle.ckpt"
    assert straight.checkpoint("middle.ckpt")["global_step"] == MIDDLE
    resumed = train(folder, f"from_{before}_to_{after}", after, resume=middle)
    expected = {step: batch for step, batch in straight.batches().items() if int(step) >= MIDDLE}
    assert resumed.batches() == expected
    losses = {step: loss for step, loss in straight.losses().items() if step >= MIDDLE}
    assert_close(resumed.losses(), losses, "loss", 1e-10)
    for part in ("state_dict", "optimizer_states"):
        assert_close(resumed.checkpoint("last.ckpt")[part], straight.checkpoint("last.ckpt")[part], part, 1e-10)
