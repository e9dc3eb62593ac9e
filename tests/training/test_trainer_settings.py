"""Each argument of Lightning's Trainer has its effect in a run. docs/guides/trainer.md names these tests."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import (
    ROOT,
    SMALL_CLIP,
    TWO_PROCESSES,
    finish_run,
    load_checkpoint,
    logged_lines,
    make_run_folder,
    resume_here,
    run_environment,
    train_here,
)
from tests.training.seen import Seen
from vlp.launch.config.errors import ConfigError
from vlp.system.errors import UserError

SETTINGS = (*SMALL_CLIP, "callbacks=[checkpoint]", "+callbacks.seen._target_=tests.training.seen.Seen")
ALL = (
    "callbacks=[checkpoint,progress,pictures,ema]", "trainer.limit_train_batches=3", "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=2", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=2", "trainer.log_every_n_steps=2",
    "trainer.num_sanity_val_steps=2", "trainer.precision=bf16-mixed", "+trainer.detect_anomaly=true",
    "+trainer.inference_mode=false", "+trainer.benchmark=true", "+trainer.profiler=simple", "trainer.gradient_clip_val=1e-3",
    "+trainer.gradient_clip_algorithm=norm", "trainer.deterministic=false",
)  # fmt: skip
# of batches that may be accumulated, as no objective compares samples of a batch
CAPTIONING = (
    *(word for word in SETTINGS if not word.startswith(("model.", "task="))),
    "model=encoder_decoder_tiny", "objective=[lm]", "task=[captioning]", "monitor=val/scenes/captioning/cider_d",
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "scenes"


def train(folder: Path, scenes: Path, *overrides: str) -> tuple[Seen, Path]:
    benchmark = torch.backends.cudnn.benchmark
    try:
        make_run_folder(folder, *SETTINGS, *overrides, data=scenes)
        train_here(folder)
    finally:
        torch.backends.cudnn.benchmark = benchmark
    return Seen.latest, folder


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> tuple[Seen, Path]:
    """A run with many settings that are not the defaults."""
    return train(tmp_path_factory.mktemp("changed") / "run", scenes, *ALL)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> tuple[Seen, Path]:
    """Three epochs of five steps; three batches of val and of test."""
    return train(tmp_path_factory.mktemp("default") / "run", scenes)


def test_default_run(default: tuple[Seen, Path]) -> None:
    seen, _ = default
    assert dict(seen.batches) == {"train": 15, "val": 9, "test": 3}
    assert seen.validated_at == [5, 10, 15]
    assert not seen.flags["anomaly"]
    assert seen.flags["deterministic"]
    assert seen.flags["inference"]


def test_accelerator(default: tuple[Seen, Path]) -> None:
    assert default[0].flags["device"] == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_accelerator_that_is_not_there(tmp_path: Path, scenes: Path) -> None:
    folder = make_run_folder(tmp_path / "run", *SETTINGS, "trainer.accelerator=gpu", data=scenes)
    assert re.search(r"^train: .*gpu", finish_run(folder, code=2), re.MULTILINE)


def test_precision(changed: tuple[Seen, Path], default: tuple[Seen, Path]) -> None:
    assert (changed[0].flags["precision"], default[0].flags["precision"]) == ("bf16-mixed", "32-true")


def test_max_epochs_and_limit_train_batches(changed: tuple[Seen, Path]) -> None:
    assert changed[0].batches["train"] == 2 * 3


def test_check_val_every_n_epoch_and_limit_val_batches(changed: tuple[Seen, Path]) -> None:
    assert changed[0].batches["val"] == 1
    assert changed[0].validated_at == [6]


def test_limit_test_batches(changed: tuple[Seen, Path]) -> None:
    assert changed[0].batches["test"] == 2


def test_num_sanity_val_steps(changed: tuple[Seen, Path]) -> None:
    """With every callback of conf/callbacks that looks at a validation."""
    assert changed[0].batches["sanity"] == 1  # of limit_val_batches


def test_log_every_n_steps(changed: tuple[Seen, Path], default: tuple[Seen, Path]) -> None:
    steps = [[line["step"] for line in logged_lines(run) if "lr/group_0" in line] for _, run in (changed, default)]
    assert steps == [[1, 3, 5], list(range(15))]


def test_detect_anomaly(changed: tuple[Seen, Path]) -> None:
    assert changed[0].flags["anomaly"]


def test_inference_mode(changed: tuple[Seen, Path]) -> None:
    assert not changed[0].flags["inference"]


def test_benchmark(changed: tuple[Seen, Path]) -> None:
    assert changed[0].flags["benchmark"]


def test_deterministic(changed: tuple[Seen, Path]) -> None:
    assert not changed[0].flags["deterministic"]


def test_profiler(changed: tuple[Seen, Path]) -> None:
    (report,) = changed[1].glob("fit-profile*.txt")
    assert "run_training_batch" in report.read_text()


def test_gradient_clip_val(changed: tuple[Seen, Path], default: tuple[Seen, Path]) -> None:
    norms = [max(float(gradient.norm()) for gradient in seen.gradients) for seen, _ in (changed, default)]
    assert norms[0] == pytest.approx(1e-3, rel=1e-2)
    assert 1e-2 < norms[1] <= 1.0001


def test_gradient_clip_algorithm(tmp_path: Path, scenes: Path) -> None:
    short = ("trainer.max_steps=2", "trainer.gradient_clip_val=1e-3", "+trainer.gradient_clip_algorithm=value")
    seen, _ = train(tmp_path / "run", scenes, *short)
    assert max(float(gradient.abs().max()) for gradient in seen.gradients) == pytest.approx(1e-3)
    assert max(float(gradient.norm()) for gradient in seen.gradients) > 2e-3


def test_max_steps(tmp_path: Path, scenes: Path) -> None:
    """Raised later, the run continues within its epoch."""
    seen, run = train(tmp_path / "run", scenes, "trainer.max_steps=3")
    assert seen.batches["train"] == 3
    resume_here(run, "trainer.max_steps=7", "force=true")
    assert Seen.latest.batches["train"] == 4
    assert load_checkpoint(run)["global_step"] == 7


def test_min_epochs_and_min_steps(tmp_path: Path, scenes: Path) -> None:
    stop = "+callbacks.seen.stop_at=2"
    assert train(tmp_path / "none", scenes, stop)[0].batches["train"] == 2
    assert train(tmp_path / "epochs", scenes, stop, "+trainer.min_epochs=2")[0].batches["train"] == 10
    assert train(tmp_path / "steps", scenes, stop, "+trainer.min_steps=7")[0].batches["train"] == 7


def test_val_check_interval(tmp_path: Path, scenes: Path) -> None:
    seen, _ = train(tmp_path / "run", scenes, "trainer.max_epochs=1", "+trainer.val_check_interval=2")
    assert seen.validated_at == [2, 4]
    over_epochs = ("+trainer.val_check_interval=7", "trainer.check_val_every_n_epoch=null")
    assert train(tmp_path / "epochs", scenes, *over_epochs)[0].validated_at == [7, 14]


def test_val_check_interval_longer_than_an_epoch(tmp_path: Path, scenes: Path) -> None:
    with pytest.raises(ConfigError, match=r"val_check_interval=100: an epoch has 5 batches: give at most 5"):
        train(tmp_path / "run", scenes, "+trainer.val_check_interval=100")


def test_val_check_interval_within_an_accumulated_step(tmp_path: Path, scenes: Path) -> None:
    folder = make_run_folder(
        tmp_path / "run", *CAPTIONING, "trainer.accumulate_grad_batches=2", "+trainer.val_check_interval=4",
        "trainer.check_val_every_n_epoch=null", data=scenes,
    )  # fmt: skip
    with pytest.raises(UserError, match="would cut through a step's 2"):
        train_here(folder)


def test_fast_dev_run(tmp_path: Path, scenes: Path) -> None:
    seen, run = train(tmp_path / "run", scenes, "trainer.fast_dev_run=2")
    assert dict(seen.batches) == {"train": 2, "val": 2, "test": 2}
    assert not (run / "metrics.jsonl").exists()


def test_plugins(tmp_path: Path, scenes: Path) -> None:
    """Beside vlp's own for checkpoints."""
    plugin = "+trainer.plugins=[{_target_: lightning.pytorch.plugins.precision.MixedPrecision, precision: bf16-mixed, device: cpu}]"
    seen, _ = train(tmp_path / "run", scenes, "trainer.max_steps=1", plugin, "trainer.precision=null")
    assert seen.flags["plugins"] == ["MixedPrecision", "AtomicCheckpointIO"]


def test_max_time_ends_with_a_checkpoint_to_continue_from(tmp_path: Path, scenes: Path) -> None:
    """The run continues with more time, and ends with the weights of a run without a limit."""
    start = time.monotonic()
    seen, run = train(
        tmp_path / "limited", scenes, "trainer.max_time=00:00:00:02", "trainer.max_epochs=100000", "schedule=constant"
    )
    steps = load_checkpoint(run)["global_step"]
    assert time.monotonic() - start < 60
    assert 0 < steps == seen.batches["train"]
    with pytest.raises(
        ConfigError, match=r"training was ended by trainer\.max_time: .* set trainer\.max_time to more, or to null"
    ):
        resume_here(run, f"trainer.max_steps={steps + 3}", "force=true")
    resume_here(run, f"trainer.max_steps={steps + 3}", "trainer.max_time=null", "force=true")
    _, unlimited = train(
        tmp_path / "unlimited",
        scenes,
        f"trainer.max_steps={steps + 3}",
        "trainer.max_epochs=100000",
        "schedule=constant",
    )
    first, second = (load_checkpoint(folder)["state_dict"] for folder in (run, unlimited))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_max_time_of_accumulated_batches_ends_between_two_steps(tmp_path: Path, scenes: Path) -> None:
    limited = (
        "trainer.accumulate_grad_batches=4",
        "trainer.max_time=00:00:00:01",
        "trainer.max_epochs=100000",
        "trainer.limit_val_batches=0",
    )
    folder = make_run_folder(tmp_path / "run", *CAPTIONING, *limited, "data.images.train=320", data=tmp_path / "scenes")
    train_here(folder)
    batches: Any = load_checkpoint(folder)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert batches["processed"] % 4 == 0


def test_max_samples_in_place_of_overfit_batches(tmp_path: Path, scenes: Path) -> None:
    """What the refusal of overfit_batches names: the same samples in each epoch."""
    with pytest.raises(ConfigError, match=r"data\.max_train_samples=16 for 2 batches of 8"):
        train(tmp_path / "refused", scenes, "+trainer.overfit_batches=2")
    assert not (tmp_path / "refused" / "config.yaml").exists()
    seen, _ = train(tmp_path / "run", scenes, "data.max_train_samples=16")
    assert seen.batches["train"] == 3 * 2


@pytest.mark.slow
def test_num_nodes(tmp_path: Path) -> None:
    """Two machines with a process each, as torchrun starts them, are one run of two processes."""
    from tests.runs import start_run

    overrides = (
        *TWO_PROCESSES,
        "trainer.devices=1",
        "+trainer.num_nodes=2",
        "callbacks=[checkpoint]",
        "trainer.max_steps=2",
    )
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, *overrides, data=tmp_path / "scenes")
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29653",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }
    first, second = (start_run(folder, RANK=str(rank), GROUP_RANK=str(rank), **common) for rank in range(2))
    printed = [process.communicate(timeout=200)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], printed
    assert load_checkpoint(folder)["samples_seen"] == 2 * 8


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["none", "wandb"])
def test_a_command_that_is_refused_when_the_data_are_read_leaves_no_folder(tmp_path: Path, logger: str) -> None:
    words = [word for word in SMALL_CLIP if not word.startswith("logger=")]
    command = [sys.executable, str(ROOT / "train.py"), *words, f"logger={logger}", "+trainer.val_check_interval=100"]
    done = subprocess.run(command, cwd=tmp_path, env=run_environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith("train: trainer.val_check_interval=100: an epoch has 5 batches: give at most 5")
    )
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.precision=16-mixed", r"^trainer\.precision=16-mixed needs a GPU.*choose bf16-mixed or 32-true"),
        ("trainer.precision=16", r"^trainer\.precision=16 needs a GPU"),
        ("trainer.precision=half", "^trainer: Precision 'half' is invalid"),
        ("trainer.devices=[0,1]", "^trainer: `devices` selected with `CPUAccelerator` should be an int"),
        ("+trainer.strategy=foo", "^trainer: You selected an invalid strategy name"),
        (
            "trainer.limit_test_batches=0.3",
            r"^trainer\.limit_test_batches=0.3: less than one of .* scenes.s test split.* at least 0.333",
        ),
        ("trainer.limit_val_batches=0.1", r"^trainer\.limit_val_batches=0.1: less than one of .* there are 3"),
        (
            "+callbacks.mine._target_=lightning.pytorch.callbacks.BatchSizeFinder",
            "BatchSizeFinder.*set data.batch_size",
        ),
        (
            "+callbacks.mine._target_=lightning.pytorch.callbacks.LearningRateFinder",
            "LearningRateFinder.*set optimizer.lr",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU")
def test_what_lightning_refuses_or_replaces_is_said_before_the_first_step(
    tmp_path: Path, scenes: Path, override: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(tmp_path / "run", scenes, override)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_without_callbacks(tmp_path: Path, scenes: Path) -> None:
    settings = (line for line in SMALL_CLIP if not line.startswith("callbacks"))
    folder = make_run_folder(tmp_path / "run", *settings, "callbacks=[]", "trainer.max_epochs=1", data=scenes)
    assert "test/scenes/retrieval/rsum" in train_here(folder)
