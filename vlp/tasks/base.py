"""What a task is: an objective that can also be measured, on one source of evaluation data at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp import distributed
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, classification_loss, linear_warmup
from vlp.structures import Batch, Features, Loss, Momentum, require, require_finite
from vlp.system.errors import UserError


class Task(Objective):
    """To measure: `reset` and `prepare` with the model in evaluation mode, `update` on every batch of this rank's share, then
    `compute` on all ranks together.

    weight 0 (the default) = only measured.
    """

    split = "val"  # or "test": what is measured, set before `prepare`
    model_precision: Callable[[], AbstractContextManager[Any]] = (
        nullcontext  # the run's precision, set before `prepare`
    )
    images = 1  # of a sample that `predict` takes
    image_optional = False  # whether `predict` also takes a text without an image
    line_per_caption = False  # whether `vlp predict` writes a line for each caption of an image
    changeable: tuple[str, ...] = ()  # of `stored`: no weight depends on it, so an evaluation may set it otherwise
    predicts_from: tuple[str, ...] = ()  # fields of Batch that `predict` requires besides `requires`
    submission_keys: tuple[str, ...] = ()  # of `predict`'s records, what a leaderboard's JSON file has of each
    predicts_by_head = False  # `predict` needs weights of its own, which a checkpoint must contain
    predict_heads: tuple[str, ...] = ()  # other objectives whose heads `predict` uses, found in `linked`

    def __init__(self, *, weight: float | list[list[float]] = 0.0, sources: Sequence[str] | None = None) -> None:
        super().__init__(weight=weight, sources=sources)
        self._figures: dict[str, object] = {}  # set by `compute`

    def reset(self) -> None:
        """Clears the state of the measurement; called before each source."""

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        """Within the precision of the run (autocast). What is ranked or compared must be float32 (`vlp.models.precision`), and
        finite: `require_finite`."""
        raise NotImplementedError

    def left_out(self) -> int:
        """Samples of this rank's batches since `reset` that the figures do not count, for example those without a label."""
        return 0

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """Figures by name, the same on every rank. Recalls and accuracies are in percent. None = undefined for these samples.

        Outside autocast; a task that runs the model here does it within `self.model_precision()`.
        """
        raise NotImplementedError

    def card(self) -> dict[str, str]:
        """What the figures depend on, in words, for results.json: `<split>/<source>/<task>/<name>`."""
        return {}

    def lacking(self, data: Any) -> str | None:
        """What `predict` still needs, as options of `vlp predict` to type; None = nothing."""
        return None

    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """One plain record per sample of the batch."""
        raise NotImplementedError

    def figures(self) -> dict[str, object]:
        """Data for pictures after `compute` (embeddings, rankings), on the CPU; empty for a task without pictures."""
        return self._figures


def write_results(path: Path | None, records: Sequence[dict[str, object]]) -> None:
    """The records as one JSON list, written by rank 0; None = no file."""
    if path is not None and distributed.rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records))


def figures_by_class(kind: str, names: Sequence[str], values: Sequence[float | None]) -> dict[str, float | None]:
    """`<kind>_<name>` of each class, with _ for spaces and slashes, which loggers read as folders; of names that are then equal
    all but the first have their number behind."""
    figures: dict[str, float | None] = {}
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        key = f"{kind}_{re.sub(r'[ /]', '_', name)}"
        figures[f"{key}_{index}" if key in figures else key] = value
    return figures


class ClassificationTask(Task):
    """One class for each image (or pair of images) and sentence, which is the batch's `question`, so that no objective takes it
    for a caption. Subclasses set the attributes below and define `head_logits`. A label of -1 is unknown and ignored.
    distillation: α of the momentum model's soft targets, reached linearly over the first `distillation_warmup` steps.
    """

    requires = ("image", "question", "label")
    needs = ("vision", "text", "fusion")
    head: nn.Sequential
    num_classes: int
    distillation: float
    distillation_warmup: int
    classes: tuple[str, ...] = ()  # their names, where data may count them in another order
    _data_classes: tuple[str, ...] = ()

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        self._data_classes = tuple(getattr(data, "class_names", None) or ())

    def label_of(self, batch: Batch) -> Int[Tensor, " b"]:
        """The samples' labels as indices of this task's classes; -1 = unknown.  Raises UserError if the data's differ."""
        label = require(batch.label)
        if not self.classes or self._data_classes in ((), self.classes):
            return label
        if set(self._data_classes) != set(self.classes):
            ours, theirs = ", ".join(self.classes), ", ".join(self._data_classes[:10])
            raise UserError(
                f"{type(self).__name__} has the classes {ours}, and the data {theirs}: they must be the same"
            )
        positions = torch.tensor([self.classes.index(name) for name in self._data_classes], device=label.device)
        return torch.where(label < 0, label, positions[label.clamp(min=0)])

    def head_logits(
        self, model: VisionLanguageModel, head: nn.Sequential, batch: Batch, features: Features | Momentum | None
    ) -> Float[Tensor, "b c"]:
        """Of the given model and head, trained or momentum; `features` are that model's."""
        raise NotImplementedError

    def logits(
        self, model: VisionLanguageModel, batch: Batch, features: Features | None = None
    ) -> Float[Tensor, "b c"]:
        return self.head_logits(model, self.head, batch, features)

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        label, soft_targets = self.label_of(batch), None
        known = label >= 0
        if self.distillation:
            momentum = require(features.momentum)
            with torch.no_grad():
                momentum_logits = self.head_logits(
                    momentum.copy_of(model), momentum.copy_of(self.head), batch, momentum
                )
                soft_targets = momentum_logits.softmax(1)[known]
        alpha = linear_warmup(self.distillation, features.step, self.distillation_warmup)
        return classification_loss(self.logits(model, batch, features)[known], label[known], soft_targets, alpha)

    def reset(self) -> None:
        self._correct, self._count, self._seen = 0, 0, 0

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        label = self.label_of(batch)
        logits = require_finite(self.logits(model, batch, features), "logits of the classes")
        self._correct += int((logits.argmax(1) == label).sum())  # never -1
        self._count += int((label >= 0).sum())
        self._seen += len(label)

    def left_out(self) -> int:
        return self._seen - self._count

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        device = next(self.parameters()).device
        correct, count = distributed.sum_over_ranks(torch.tensor([self._correct, self._count], device=device)).tolist()
        if not count:
            raise UserError(f"{type(self).__name__}: no sample has a known label; leave the task out of task=[…]")
        return {"accuracy": 100 * correct / count, "chance": 100 / self.num_classes}
