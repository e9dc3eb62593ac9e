from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_processes
from tests.tasks.test_probe import Colours, batches, colours
from tests.towers import ToyText, toy_model
from vlp.models.features import compute_features
from vlp.models.vlm import VisionLanguageModel
from vlp.tasks.label_efficiency import LabelEfficiency
from vlp.tasks.zero_shot import ZeroShot
from vlp.tokenizers.trained import TrainedTokenizer

OPTIONS: dict[str, Any] = {"shots": [1, 2, 4], "fractions": [0.1, 1], "templates": ["a {}"]}


def spelling() -> TrainedTokenizer:
    tokenizer = TrainedTokenizer(size=300)
    tokenizer.train(["a red", "a green", "a blue"])
    return tokenizer


def model_with_words() -> VisionLanguageModel:
    model = toy_model()
    model.text = ToyText(vocabulary=300)
    return model.eval()


def measure(task: Any, data: Colours, *, words: bool = True, **share: int) -> dict[str, Any]:
    model = model_with_words()
    task.reset()
    task.split = "test"
    task.prepare(model, spelling() if words else None, data)
    for batch in batches(data, **share):
        task.update(model, batch, compute_features(model, batch, task.uses))
    return task.compute(model)


def test_the_curve_starts_at_zero_shot_and_rises(tmp_path: Path) -> None:
    data = colours(tmp_path)
    task = LabelEfficiency(**OPTIONS)
    figures = measure(task, data)
    assert figures["zero_shot"] == measure(ZeroShot(templates=["a {}"]), data)["top1"]
    for method in task.methods:
        assert figures[f"{method}_percent_100"] > 70
        assert figures[f"{method}_shots_4_interval"] >= 0
        assert figures[f"{method}_percent_100_interval"] is None  # there is one subset of all
    curves: Any = task.figures()["label_curves"]
    assert curves["zero_shot"] == figures["zero_shot"]
    assert list(curves["methods"]["ridge"]) == [
        "shots_1",
        "shots_2",
        "shots_4",
        "percent_10",
        "percent_100",
    ]
    assert curves["methods"]["ridge"]["percent_10"][0] == 3


def test_without_a_text_tower_there_is_no_zero_shot(tmp_path: Path) -> None:
    figures = measure(LabelEfficiency(**OPTIONS), colours(tmp_path), words=False)
    assert not any("zero_shot" in name or "text" in name for name in figures)
    assert figures["ridge_percent_100"] > 70


def test_a_tower_alone_has_a_curve(tmp_path: Path) -> None:
    data, task, model = (
        colours(tmp_path),
        LabelEfficiency(**OPTIONS),
        VisionLanguageModel(vision=toy_model().vision).eval(),
    )
    task.reset()
    task.split = "test"
    task.prepare(model, None, data)
    for batch in batches(data):
        task.update(model, batch, compute_features(model, batch, task.uses))
    assert task.compute(model)["ridge_percent_100"] > 70


def test_several_classes_an_image(tmp_path: Path) -> None:
    task = LabelEfficiency(**{**OPTIONS, "methods": ["ridge", "text_logistic"]})
    figures = measure(task, colours(tmp_path, several=True))
    assert task.figures()["label_curves"]["figure"] == "mean_average_precision"
    assert figures["ridge_percent_100"] > figures["ridge_shots_1"] - 20


def test_settings_are_never_chosen_on_the_measured_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    split = Colours.split
    monkeypatch.setattr(Colours, "split", lambda self, name: read.append(name) or split(self, name))
    data = colours(tmp_path)
    task, model = LabelEfficiency(**OPTIONS), model_with_words()
    for measured in ("val", "test"):
        read.clear()
        task.reset()
        task.split = measured
        task.prepare(model, spelling(), data)
        assert "test" not in read
        train, pool, refit = (part["pooled"] for part in task._parts)
        sizes = {"val": (27, 3, 30), "test": (30, 9, 39)}[measured]
        assert (len(train), len(pool), len(refit)) == sizes
        for point in task._points():
            for rows, _, both in point.draws:
                assert both == (point.name == "percent_100")
                assert len(rows) <= len(train)


def _rank_figures(rank: int, world: int, folder: str) -> dict[str, Any]:
    return measure(LabelEfficiency(**OPTIONS), colours(Path(folder)), start=rank, step=world)


def test_two_processes_are_one(tmp_path: Path) -> None:
    expected = measure(LabelEfficiency(**OPTIONS), colours(tmp_path / "data"))
    for figures in run_processes(2, _rank_figures, tmp_path / "out", str(tmp_path / "data")):
        assert figures == pytest.approx(expected, abs=1e-10)


def test_trained_runs_are_a_row(tmp_path: Path) -> None:
    for number, (images, value) in enumerate([(3, 50.0), (3, 60.0), (None, 90.0)]):
        folder = tmp_path / "runs" / "sweep" / str(number)
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"test/colours/classification/top1": value, "steps": 2}))
        (folder / "config.yaml").write_text(json.dumps({"data": {"max_train_samples": images}}))
    task = LabelEfficiency(**{**OPTIONS, "methods": ["ridge"]}, runs={"lora": str(tmp_path / "runs")})
    figures = measure(task, colours(tmp_path / "data"))
    assert figures["lora_percent_10"] == 55
    assert figures["lora_percent_10_interval"] > 10
    assert figures["lora_percent_100"] == 90
    curves: Any = task.figures()["label_curves"]
    assert curves["methods"]["lora"]["percent_10"][0] == 3
    with pytest.raises(ValueError, match=r"no run below .*nowhere has test/…/classification/top1"):
        measure(LabelEfficiency(**OPTIONS, runs={"lora": str(tmp_path / "nowhere")}), colours(tmp_path / "data"))


def test_mistakes() -> None:
    for options, message in (
        ({"methods": ["svm"]}, "there is no svm: choose from ridge"),
        ({"methods": []}, "at least"),
        ({"shots": [0]}, "1 or more"),
        ({"fractions": [1.5]}, "above 0, 1 at most"),
        ({"weight": 1.0}, "fitted, not trained"),
    ):
        with pytest.raises(ValueError, match=message):
            LabelEfficiency(**options)
