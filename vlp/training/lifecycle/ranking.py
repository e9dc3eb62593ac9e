"""Which checkpoints of a run are the best by its monitored figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from vlp.training.lifecycle.checkpoint_files import remove_checkpoint


class Ranking:
    """keep: how many; -1 = all, 0 = none. Of equal figures the first one is better; NaN is never among the best."""

    def __init__(self, *, folder: Path, keep: int, largest_first: bool) -> None:
        self.folder, self.keep, self.sign = folder, keep, 1.0 if largest_first else -1.0
        self.entries: list[tuple[float, int]] = []  # (figure, optimiser steps), the best first

    def admits(self, score: float) -> bool:
        if self.keep == 0 or math.isnan(score):
            return False
        return self.keep == -1 or len(self.entries) < self.keep or self._is_better(score, self.entries[-1][0])

    def insert(self, score: float, step: int) -> bool:
        """Whether it is the best of all."""
        position = sum(not self._is_better(score, other) for other, _ in self.entries)
        self.entries.insert(position, (score, step))
        if self.keep >= 0:
            del self.entries[self.keep :]
        return position == 0

    def _is_better(self, score: float, other: float) -> bool:
        return self.sign * score > self.sign * other

    def remove_others(self) -> None:
        """Removes the files of checkpoints that are no longer among the best."""
        names = {ranked_name(step) for _, step in self.entries}
        for path in self.folder.glob(ranked_name("*")):
            if path.name not in names:
                remove_checkpoint(path)

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.entries[0][0] if self.entries else None, "ranking": list(self.entries)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        best = state.get("best_score")
        entries = state.get("ranking", [] if best is None else [(best, 0)])  # earlier checkpoints have one figure
        self.entries = [(float(score), int(step)) for score, step in entries][: self.keep if self.keep >= 0 else None]


def ranked_name(step: int | str) -> str:
    return f"step_{step}.ckpt"
