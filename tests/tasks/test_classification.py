from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.processes import run_processes
from tests.tasks.test_label_efficiency import model_with_words, spelling
from tests.tasks.test_probe import Colours, batches, colours
from vlp.models.features import compute_features
from vlp.structures import Batch, Features, Image
from vlp.tasks.classification import Classification
from vlp.tasks.zero_shot import ZeroShot

NAMES = ("red", "green", "blue")
TEMPLATES = ["a {}", "the {}"]


def measure(task: Any, data: Colours, model: Any = None) -> dict[str, Any]:
    model = model or model_with_words()
    task.reset()
    task.split = "test"
    task.prepare(model, spelling(), data)
    for batch in batches(data):
        task.update(model, batch, compute_features(model, batch, task.uses))
    return task.compute(model)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_a_head_from_texts_starts_at_zero_shot_exactly(several: bool, mixup: float, tmp_path: Path) -> None:
    data = colours(tmp_path, several=several)
    task = Classification(templates=TEMPLATES, mixup=mixup, class_names=NAMES, feature_width=5)
    assert measure(task, data) == measure(ZeroShot(templates=TEMPLATES), data)


def test_one_measured_alone_makes_its_head_from_the_data(tmp_path: Path) -> None:
    data = colours(tmp_path)
    expected = measure(ZeroShot(templates=TEMPLATES), data)
    assert measure(Classification(templates=TEMPLATES), data) == expected
    assert measure(Classification(head="random", features="pooled"), data)["images"] == 11


def test_a_trained_head_is_kept(tmp_path: Path) -> None:
    data = colours(tmp_path)
    task = Classification(templates=TEMPLATES, class_names=NAMES, feature_width=5)
    task.prepare(model_with_words(), spelling(), data)
    with torch.no_grad():
        task.linear.weight += 1
    again = Classification(templates=TEMPLATES, class_names=NAMES, feature_width=5)
    again.load_state_dict(task.state_dict())
    again.prepare(model_with_words(), spelling(), data)
    torch.testing.assert_close(again.linear.weight, task.linear.weight)


def loss_of(task: Classification, model: Any, batch: Batch) -> Any:
    return task(model, batch, compute_features(model, batch, task.uses))


def test_the_losses_are_torchs(tmp_path: Path) -> None:
    model = model_with_words()
    for several in (False, True):
        data = colours(tmp_path, several=several)
        task = Classification(head="random", features="pooled", label_smoothing=0.1, class_names=NAMES, feature_width=8)
        task.prepare(model, None, data)
        batch = batches(data, size=11)[0]
        logits = task.linear(model.encode_image(batch.image).pooled)
        expected = (
            F.binary_cross_entropy_with_logits(logits, batch.categories.float())
            if several
            else F.cross_entropy(logits, batch.label, label_smoothing=0.1)
        )
        torch.testing.assert_close(loss_of(task, model, batch).value, expected)


def test_unknown_classes_do_not_count(tmp_path: Path) -> None:
    model, data = model_with_words(), colours(tmp_path)
    task = Classification(head="random", features="pooled", class_names=NAMES, feature_width=8)
    task.prepare(model, None, data)
    batch = batches(data, size=11)[0]
    label = batch.label.clone()
    label[4:] = -1
    fewer = Batch(id=batch.id, sample=batch.sample, seed=batch.seed, image=batch.image, label=label)
    known = Batch(
        id=batch.id[:4],
        sample=batch.sample[:4],
        seed=batch.seed[:4],
        image=batch.image.select(slice(4)),
        label=label[:4],
    )
    torch.testing.assert_close(loss_of(task, model, fewer).value, loss_of(task, model, known).value)


def test_training_fits_the_colours(tmp_path: Path) -> None:
    model, data = model_with_words(), colours(tmp_path)
    task = Classification(templates=TEMPLATES, mixup=0.2, label_smoothing=0.1, class_names=NAMES, feature_width=5)
    before = measure(task, data, model)["top1"]
    train = batches(data, "train", size=30)[0]
    optimizer = torch.optim.Adam(
        [*model.vision.parameters(), *model.projection.parameters(), *task.parameters()], lr=0.01
    )
    for step in range(80):
        batch = Batch(
            id=train.id, sample=train.sample, seed=train.seed + 100 * step, image=train.image, label=train.label
        )
        optimizer.zero_grad()
        loss_of(task, model, batch).value.backward()
        optimizer.step()
    assert measure(task, data, model)["top1"] >= max(before, 70)


def _gradients(rank: int, world: int, alpha: float, several: bool, unlabelled: bool) -> list[torch.Tensor]:
    """Of the loss and of every parameter, averaged over ranks as DistributedDataParallel does."""
    torch.manual_seed(0)
    model = model_with_words().double()
    task = Classification(head="random", features="pooled", mixup=alpha, class_names=NAMES, feature_width=8).double()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(8, 3, 4, 4, generator=generator, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    if unlabelled:
        label[4:] = -1  # none on the second rank
    rows = slice(rank * 8 // world, (rank + 1) * 8 // world)
    index = torch.arange(8)[rows]
    classes: Any = {"categories": F.one_hot(label.clamp(min=0), 3).bool()[rows]} if several else {"label": label[rows]}
    batch = Batch(id=index, sample=index, seed=index + 40, image=Image(pixels=pixels[rows]), **classes)
    features = Features(image=None if alpha else model.encode_image(batch.image))
    loss = task(model, batch, features).value
    loss.backward()
    found = [parameter.grad for part in (model.vision, task) for parameter in part.parameters()]
    if world > 1:
        for gradient in found:
            torch.distributed.all_reduce(gradient)
            gradient /= world
    return [loss.detach(), *found]


@pytest.mark.parametrize(
    ("alpha", "several", "unlabelled"), [(0.0, False, True), (0.3, False, False), (0.3, True, False)]
)
def test_two_processes_are_one(alpha: float, several: bool, unlabelled: bool, tmp_path: Path) -> None:
    expected = _gradients(0, 1, alpha, several, unlabelled)
    for rank in run_processes(2, _gradients, tmp_path, alpha, several, unlabelled):
        for value, right in zip(rank, expected, strict=True):
            torch.testing.assert_close(value, right, atol=1e-10, rtol=0)


def test_data_that_count_the_classes_in_another_order(tmp_path: Path) -> None:
    data = colours(tmp_path)
    task = Classification(templates=TEMPLATES, class_names=("blue", "red", "green"), feature_width=5)
    assert measure(task, data)["top1"] == measure(ZeroShot(templates=TEMPLATES), data)["top1"]
    data.class_names = ("red", "green", "black")
    with pytest.raises(ValueError, match="they must be the same"):
        measure(task, data)


def test_predictions_name_the_classes(tmp_path: Path) -> None:
    data, model = colours(tmp_path), model_with_words()
    task = Classification(templates=TEMPLATES, class_names=NAMES, feature_width=5)
    with pytest.raises(ValueError, match="needs a trained head"):
        task.predict(model, batches(data)[0])
    task.prepare(model, spelling(), data)
    (first, *_) = task.predict(model, batches(data)[0])
    assert {name for name, _ in first["classes"]} == set(NAMES)
    assert sum(share for _, share in first["classes"]) == pytest.approx(1, abs=1e-5)


def test_mistakes() -> None:
    for options, message in (
        ({"head": "best"}, "choose one of text, random"),
        ({"features": "states"}, "choose one of pooled, embed"),
        ({"features": "pooled"}, "set features=embed"),
        ({"label_smoothing": 1.0}, "less than 1"),
        ({"mixup": -1.0}, "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Classification(**options)
