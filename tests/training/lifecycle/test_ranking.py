"""callbacks.checkpoint.save_top_k: which of the best checkpoints stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import SMALL_CLIP, load_checkpoint, logged_lines, make_run_folder, resume_here, train_here
from vlp.system.errors import UserError
from vlp.training.callbacks.checkpoint import RunCheckpoint
from vlp.training.lifecycle.ranking import Ranking

FIGURE = "val/scenes/retrieval/rsum"


def ranked(keep: int, scores: list[float], *, largest_first: bool = True) -> list[int]:
    """Positions of the scores that stay, the best first."""
    ranking = Ranking(folder=Path("none"), keep=keep, largest_first=largest_first)
    for step, score in enumerate(scores):
        if ranking.admits(score):
            ranking.insert(score, step)
    return [step for _, step in ranking.entries]


def test_order() -> None:
    nan = float("nan")
    scores = [3.0, nan, 1.0, 5.0, 5.0, 4.0]
    assert ranked(1, scores) == [3]
    assert ranked(2, scores) == [3, 4]
    assert ranked(3, scores) == [3, 4, 5]
    assert ranked(-1, scores) == [3, 4, 5, 0, 2]
    assert ranked(2, scores, largest_first=False) == [2, 0]
    assert ranked(0, scores) == []


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(UserError, match="save_top_k=-2"):
        RunCheckpoint(folder="x", monitor="y", save_top_k=-2)


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_the_best_two_of_a_run_and_of_its_continuation(tmp_path: Path) -> None:
    overrides = ("callbacks=[checkpoint]", "callbacks.checkpoint.save_top_k=2", "trainer.max_epochs=4")
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, *overrides, data=tmp_path / "scenes")
    train_here(folder)
    for total in (4, 6):
        if total == 6:
            resume_here(folder, "trainer.max_epochs=6", "force=true")
        scores = [line[FIGURE] for line in logged_lines(folder) if FIGURE in line]
        assert len(scores) == total
        best = sorted(range(total), key=lambda epoch: -scores[epoch])[:2]
        steps = {f"step_{5 * (epoch + 1)}.ckpt" for epoch in best}
        assert {name for name in files(folder) if name.startswith("step_")} == steps | {
            f"{name}.json" for name in steps
        }
        for epoch in best:
            content = load_checkpoint(folder, f"step_{5 * (epoch + 1)}.ckpt")
            assert content["figures"][FIGURE] == pytest.approx(scores[epoch])
        assert load_checkpoint(folder, "best.ckpt")["global_step"] == 5 * (best[0] + 1)


def test_none(tmp_path: Path) -> None:
    overrides = ("callbacks=[checkpoint]", "callbacks.checkpoint.save_top_k=0", "trainer.max_epochs=1")
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, *overrides, data=tmp_path / "scenes")
    train_here(folder)
    assert {"last.ckpt"} <= files(folder)
    assert "best.ckpt" not in files(folder)
