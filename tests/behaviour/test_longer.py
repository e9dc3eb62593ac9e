"""A finished run that gets more steps or epochs continues where it ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import SMALL_CLIP, assert_equal, finish_run, load_checkpoint, logged_lines, make_run_folder


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("short", "long"),
    [
        (("trainer.max_steps=7", "trainer.max_epochs=-1"), ("trainer.max_steps=12", "trainer.max_epochs=-1")),
        (("trainer.max_epochs=1",), ("trainer.max_epochs=2",)),
    ],
)
def test_a_finished_run_continues_with_more_steps(
    short: tuple[str, ...], long: tuple[str, ...], tmp_path: Path
) -> None:
    """Epochs have 5 steps, so 7 steps end within one."""
    settings = (*SMALL_CLIP, "schedule=constant", "schedule.warmup=0")
    uninterrupted = make_run_folder(tmp_path / "uninterrupted", *settings, *long, data=tmp_path / "scenes")
    finish_run(uninterrupted)
    run = make_run_folder(tmp_path / "run", *settings, *short, data=tmp_path / "scenes")
    finish_run(run)
    config = (
        make_run_folder(tmp_path / "config", *settings, *long, "force=true", data=tmp_path / "scenes") / "config.yaml"
    )
    (run / "config.yaml").write_text(config.read_text().replace(str(tmp_path / "config"), str(run)))
    finish_run(run)
    losses = [
        [line for line in logged_lines(folder) if "train/scenes/itc/loss" in line] for folder in (uninterrupted, run)
    ]
    assert_equal(*losses)
    assert_equal(*(load_checkpoint(folder)["state_dict"] for folder in (uninterrupted, run)))
