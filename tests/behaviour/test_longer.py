"""A run that has come to its end, and is then given more steps or epochs, goes on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import CLIP, finish, frozen, last, lines, same


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("short", "long"),
    [
        (("trainer.max_steps=7", "trainer.max_epochs=-1"), ("trainer.max_steps=12", "trainer.max_epochs=-1")),
        (("trainer.max_epochs=1",), ("trainer.max_epochs=2",)),
    ],
)
def test_more_of_the_same(short: tuple[str, ...], long: tuple[str, ...], tmp_path: Path) -> None:
    """Epochs of 5 steps: 7 steps end within one."""
    settings = (*CLIP, "schedule=constant", "schedule.warmup=0")
    straight = frozen(tmp_path / "straight", *settings, *long, data=tmp_path / "scenes")
    finish(straight)
    run = frozen(tmp_path / "run", *settings, *short, data=tmp_path / "scenes")
    finish(run)
    config = frozen(tmp_path / "config", *settings, *long, "force=true", data=tmp_path / "scenes") / "config.yaml"
    (run / "config.yaml").write_text(config.read_text().replace(str(tmp_path / "config"), str(run)))
    finish(run)
    losses = [[line for line in lines(folder) if "train/scenes/itc/loss" in line] for folder in (straight, run)]
    same(*losses)
    same(*(last(folder)["state_dict"] for folder in (straight, run)))
