"""Multiple choice: the most probable of each question's own choices, whatever is beside it in the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import run_processes
from tests.tasks.test_vqa import QUESTIONS, TOKENIZER, Data, sample, toy, vqa_batch
from vlp.models.features import compute_features
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.lm import token_losses
from vlp.structures import Batch, Sample
from vlp.system.errors import UserError
from vlp.tasks.multiple_choice import MultipleChoice
from vlp.tasks.vqa import VQA

CHOICES = (("red", "green"), ("two", "blue", "a red circle"), ("a red square", "a red circle"), ("blue", "red", "two"))
LABELS = (1, 0, None, 2)


def choice_batch(rows: slice = slice(0, 4)) -> Batch:
    raw = tuple(sample(index, choices=CHOICES[index], label=LABELS[index]) for index in list(range(4))[rows])
    label = torch.tensor([-1 if one.label is None else one.label for one in raw])
    width = max(map(len, CHOICES))
    flat = [list(one.choices) + [""] * (width - len(one.choices)) for one in raw]
    texts = [TOKENIZER(row, kind="answer") for row in flat]
    length = max(text.ids.shape[1] for text in texts)
    padded = [torch.nn.functional.pad(text.ids, (0, length - text.ids.shape[1])) for text in texts]
    choices = type(texts[0])(ids=torch.stack(padded), mask=torch.stack(padded) > 0)
    return vqa_batch(rows, raw=raw, choices=choices, label=label, answer=None, scores=None, answer_weight=None)


def by_hand(model: VisionLanguageModel, batch: Batch) -> list[int]:
    fused = model.fuse(model.encode_text(batch.question), model.project_memory(model.encode_image(batch.image)))
    best = []
    for row, one in enumerate(batch.raw or ()):
        texts = [TOKENIZER([choice], kind="answer") for choice in one.choices]
        losses = [token_losses(model.decode(text, fused.select([row])), text).sum().item() for text in texts]
        best.append(losses.index(min(losses)))
    return best


def measure(model: VisionLanguageModel, batches: list[Batch], **options: Any) -> dict[str, float | None]:
    task = MultipleChoice(**options)
    task.prepare(model, TOKENIZER, Data())
    task.reset()
    for batch in batches:
        task.update(model, batch, compute_features(model, batch, task.uses))
    return task.compute(model)


@torch.no_grad()
def test_the_choice_of_least_loss_alone_as_in_a_batch(tmp_path: Path) -> None:
    model, batch = toy().eval(), choice_batch()
    best = by_hand(model, batch)
    figures = measure(model, [batch], results_file=tmp_path / "choices.json")
    right = [index == label for index, label in zip(best, LABELS, strict=True) if label is not None]
    assert figures["accuracy"] == pytest.approx(100 * sum(right) / 3)
    assert figures["chance"] == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 3) / 3)
    assert figures["questions"] == 4.0
    alone = measure(model, [choice_batch(slice(row, row + 1)) for row in range(4)])
    assert alone == figures
    rows = json.loads((tmp_path / "choices.json").read_text())
    assert rows == [{"question_id": 100 + index, "multiple_choice": CHOICES[index][best[index]]} for index in range(4)]


def test_direct_answers_are_measured_beside_choices() -> None:
    batch = choice_batch()
    assert VQA().applies(batch, "any")
    assert MultipleChoice().applies(batch, "any")
    assert len(QUESTIONS) == len(CHOICES)


def test_it_has_no_loss() -> None:
    with pytest.raises(UserError, match=r"train with task=\[vqa\]"):
        MultipleChoice(weight=1.0)


def test_a_data_set_adds_figures_and_writes_rows_of_its_own(tmp_path: Path) -> None:
    class WithFigures(Data):
        def question_figures(self, answered: list[tuple[Sample, str]]) -> dict[str, float | None]:
            return {"own": float(len(answered))}

        def result_row(self, sample: Sample, answer: str) -> dict[str, object]:
            return {"name": f"q{sample.sample}", "text": answer}

    model, task = toy().eval(), VQA(results_file=tmp_path / "answers.json")
    raw = tuple(sample(index, answers=("red",) if index else ()) for index in range(4))
    batch = vqa_batch(raw=raw)
    task.prepare(model, TOKENIZER, WithFigures())
    task.reset()
    task.update(model, batch, compute_features(model, batch, task.uses))
    assert task.compute(model)["own"] == 3.0
    assert [row["name"] for row in json.loads((tmp_path / "answers.json").read_text())] == [
        "q100",
        "q101",
        "q102",
        "q103",
    ]


def _figures_of_rank(rank: int, world_size: int) -> dict[str, float | None]:
    return measure(toy().eval(), [choice_batch(slice(2 * rank, 2 * rank + 2))])


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    one = measure(toy().eval(), [choice_batch()])
    assert run_processes(2, _figures_of_rank, tmp_path) == [one, one]
