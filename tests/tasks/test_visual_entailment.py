"""Visual entailment: accuracy over batches, its loss, and that questions are no captions."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.structures import Batch
from vlp.system.errors import UserError
from vlp.tasks.visual_entailment import VisualEntailment


def batch_of(rows: slice = slice(None)) -> Batch:
    batch = toy_batch(rows, same_image=False)
    return Batch(
        id=batch.id, sample=batch.sample, seed=batch.seed, image=batch.image, question=batch.caption, label=batch.id % 3
    )


def test_accuracy_over_batches_of_any_size() -> None:
    torch.manual_seed(0)
    model, task = toy_model(fused=True).double(), VisualEntailment(width=4).double()
    full = batch_of()
    logits = task.logits(model, full, compute_features(model, full, task.uses))
    expected = 100 * (logits.argmax(1) == full.label).double().mean()
    task.reset()
    for rows in (slice(0, 5), slice(5, 12)):
        part = batch_of(rows)
        task.update(model, part, compute_features(model, part, task.uses))
    figures = task.compute(model)
    torch.testing.assert_close(figures["accuracy"], float(expected))
    assert abs(figures["chance"] - 100 / 3) < 1e-9
    loss = task(model, full, compute_features(model, full, task.uses))
    torch.testing.assert_close(loss.value, torch.nn.functional.cross_entropy(logits, full.label))
    torch.testing.assert_close(loss.logs["accuracy"], expected)


def test_runs_on_questions_with_labels_and_not_on_captions() -> None:
    task = VisualEntailment(width=4)
    assert task.applies(batch_of(), "any")
    assert not task.applies(toy_batch(), "any")


def test_predicts_a_class_with_probabilities() -> None:
    model, task = toy_model(fused=True).double(), VisualEntailment(width=4).double()
    first = task.predict(model, batch_of())[0]
    assert first["label"] in task.classes
    assert abs(sum(first["probability"]) - 1) < 1e-9


def test_labels_are_those_of_the_same_names_in_any_order() -> None:
    """ALBEF's heads count contradiction, neutral, entailment; data may count them otherwise."""
    task = VisualEntailment(width=4, classes=["contradiction", "neutral", "entailment"])
    batch = dataclasses.replace(batch_of(), label=torch.tensor([0, 1, 2, -1] * 3))
    task.prepare(toy_model(fused=True), None, SimpleNamespace(class_names=("entailment", "neutral", "contradiction")))
    assert task.label_of(batch).tolist() == [2, 1, 0, -1] * 3
    task.prepare(toy_model(fused=True), None, SimpleNamespace(class_names=None))
    assert task.label_of(batch).tolist() == [0, 1, 2, -1] * 3
    task.prepare(toy_model(fused=True), None, SimpleNamespace(class_names=("cat", "dog", "bird")))
    with pytest.raises(
        UserError, match="has the classes contradiction, neutral, entailment, and the data cat, dog, bird"
    ):
        task.label_of(batch)
