from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pytest
import torch

from tests.processes import run_processes
from tests.towers import toy_model
from vlp.data.datamodule import DataModule
from vlp.data.transforms import EvalTransform, TrainTransform
from vlp.models.features import compute_features
from vlp.predictor import Predictor
from vlp.structures import Batch, Image, Sample
from vlp.tasks.probe import Probe

COLOURS = ((220, 30, 30), (30, 220, 30), (30, 30, 220))


class Colours(DataModule):
    """Noisy pictures of three colours; with `several` an image has the class of each colour it shows."""

    sizes: ClassVar[dict[str, int]] = {"train": 30, "val": 9, "test": 11}

    def __init__(self, *, several: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.several, self.class_names = several, ("red", "green", "blue")

    def samples(self, split: str) -> list[Sample]:
        found = []
        for index in range(self.sizes[split]):
            number = list(self.sizes).index(split) * 1000 + index
            path = self.root / f"{number}.png"
            label = index % 3
            if not path.exists():
                noise = np.random.default_rng(number).normal(0, 60, (4, 4, 3))
                pixels = np.clip(np.array(COLOURS[label]) + noise, 0, 255).astype(np.uint8)
                PIL.Image.fromarray(pixels).save(path)
            classes = {"categories": (label, 0)} if self.several else {"label": label}
            found.append(Sample(id=number, sample=index, image=path, **classes))
        return found


def colours(folder: Path, **options: Any) -> Colours:
    folder.mkdir(parents=True, exist_ok=True)
    transform = {"train": TrainTransform(image_size=4), "eval": EvalTransform(image_size=4)}
    return Colours(name="colours", root=folder, transform=transform, **options)


def batches(data: Colours, split: str = "test", *, start: int = 0, step: int = 1, size: int = 4) -> list[Batch]:
    samples = [data.split(split)[index] for index in range(start, len(data.split(split)), step)]
    pixels = [data.transform["eval"](PIL.Image.open(str(sample.image))) for sample in samples]
    found = []
    for first in range(0, len(samples), size):
        rows = samples[first : first + size]
        classes: dict[str, Any] = {"label": None if data.several else torch.tensor([row.label for row in rows])}
        if data.several:
            classes["categories"] = torch.zeros(len(rows), 3, dtype=torch.bool)
            for target, row in zip(classes["categories"], rows, strict=True):
                target[list(row.categories)] = True
        index = torch.tensor([row.sample for row in rows])
        image = Image(pixels=torch.stack(pixels[first : first + size]))
        found.append(Batch(id=index, sample=index, seed=index, image=image, **classes))
    return found


def measure(task: Probe, data: Colours, *, split: str = "test", **share: int) -> dict[str, Any]:
    model = toy_model().eval()
    task.reset()
    task.split = split
    task.prepare(model, None, data)
    for batch in batches(data, split, **share):
        assert task.applies(batch, "colours")
        task.update(model, batch, compute_features(model, batch, task.uses))
    return task.compute(model)


@pytest.mark.parametrize("classifier", ["ridge", "logistic", "knn", "class_mean"])
@pytest.mark.parametrize("features", ["pooled", "embed"])
def test_noisy_colours_are_classified(classifier: str, features: str, tmp_path: Path) -> None:
    figures = measure(Probe(classifier=classifier, features=features), colours(tmp_path))
    assert figures["top1"] > 70  # chance is 33
    assert (figures["classes"], figures["images"], figures["train_images"]) == (3.0, 11.0, 39.0)
    assert (figures["setting"] is None) == (classifier == "class_mean")


def test_several_classes_an_image_give_mean_average_precision(tmp_path: Path) -> None:
    figures = measure(Probe(classifier="ridge"), colours(tmp_path, several=True))
    assert figures["mean_average_precision"] > 80
    assert figures["mean_average_precision_11_points"] > 80


def test_val_is_never_used_where_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = colours(tmp_path)
    figures = measure(Probe(classifier="ridge"), data, split="val")
    assert (figures["train_images"], figures["images"]) == (30.0, 9.0)
    monkeypatch.setattr(Colours, "sizes", {**Colours.sizes, "val": 0})
    assert measure(Probe(classifier="ridge"), colours(tmp_path))["train_images"] == 30.0


def test_cached_features_give_the_same_figures_without_the_tower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = colours(tmp_path / "data"), str(tmp_path / "features")
    first = measure(Probe(folder=folder), data)
    monkeypatch.setattr("vlp.models.split_features._compute", None)  # would be called where one is missing
    assert measure(Probe(folder=folder), data) == first


def test_a_stored_classifier_predicts_what_was_measured(tmp_path: Path) -> None:
    data = colours(tmp_path)
    task = Probe(scaling="standard", class_names=data.class_names, feature_width=8)
    with pytest.raises(ValueError, match="needs a fitted classifier"):
        task.predict(toy_model().eval(), batches(data)[0])
    figures = measure(task, data)
    again = Probe(scaling="standard", class_names=data.class_names, feature_width=8)
    again.load_state_dict(task.state_dict())
    correct = 0
    for batch in batches(data):
        for record, label in zip(again.predict(toy_model().eval(), batch), batch.label.tolist(), strict=True):
            correct += record["classes"][0][0] == data.class_names[label]
            assert sum(share for _, share in record["classes"]) == pytest.approx(1, abs=1e-5)
    assert 100 * correct / 11 == pytest.approx(figures["top1"])


def _rank_figures(rank: int, world: int, folder: str) -> dict[str, Any]:
    data = colours(Path(folder))
    return measure(Probe(classifier="logistic"), data, start=rank, step=world)


def test_two_processes_are_one(tmp_path: Path) -> None:
    expected = measure(Probe(classifier="logistic"), colours(tmp_path / "data"))
    for figures in run_processes(2, _rank_figures, tmp_path / "out", str(tmp_path / "data")):
        assert figures == pytest.approx(expected, abs=1e-10)


def test_mistakes() -> None:
    for options, message in (
        ({"classifier": "svm"}, "choose one of ridge"),
        ({"features": "states"}, "choose one of pooled, embed"),
        ({"weight": 1.0}, "is fitted, not trained"),
        ({"classifier": "knn", "save": "x.ckpt"}, "knn is all training features"),
    ):
        with pytest.raises(ValueError, match=message):
            Probe(**options)


def test_a_predictor_classifies_by_the_stored_classifier(tmp_path: Path) -> None:
    data = colours(tmp_path)
    task = Probe(class_names=data.class_names, feature_width=8)
    measure(task, data)
    transform = EvalTransform(image_size=4)
    predictor = Predictor(
        model=toy_model().eval(), objectives=torch.nn.ModuleDict({"probe": task}), transform=transform, batch_size=4
    )
    paths = [sample.image for sample in data.split("test")]
    rows = predictor.classify(paths)
    assert [max(row, key=row.get) for row in rows] == [
        record["classes"][0][0] for batch in batches(data) for record in task.predict(toy_model().eval(), batch)
    ]
    with pytest.raises(ValueError, match="reads no prompts"):
        predictor.classify(paths, templates=["a {}"])
    predictor.objectives = torch.nn.ModuleDict()
    with pytest.raises(ValueError, match="has no classifier of its own"):
        predictor.classify(paths)
