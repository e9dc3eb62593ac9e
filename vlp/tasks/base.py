"""What a task is: an objective that can also be measured, over one source of evaluation data at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.structures import Batch, Features


class Task(Objective):
    """`reset` and `prepare` with the model in evaluation mode, `update` on every batch of this rank's share, then `compute` on
    all ranks together.

    weight 0 (the default) = only measured.
    """

    split = "val"  # or "test": of what is measured, known in `prepare`
    images = 1  # of a sample that `predict` is asked about
    predict_heads: tuple[str, ...] = ()  # other objectives whose heads `predict` uses, found in `linked`

    def __init__(self, *, weight: float | list[list[float]] = 0.0, sources: Sequence[str] | None = None) -> None:
        super().__init__(weight=weight, sources=sources)

    def reset(self) -> None:
        """Forgets everything; called before each source."""

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        raise NotImplementedError

    def compute(self, model: VisionLanguageModel) -> dict[str, float]:
        """Final figures by name, the same on every rank. Recalls and accuracies are in percent."""
        raise NotImplementedError

    def lacking(self, data: Any) -> str | None:
        """What `predict` needs that neither the task nor the data has, as options of `vlp predict`; None = nothing."""
        return None

    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """One plain record per sample of the batch."""
        raise NotImplementedError

    def figures(self) -> dict[str, object]:
        """Material for pictures after `compute` (embeddings, rankings), on the CPU; empty where there is none."""
        return {}
