from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import run_processes
from tests.tasks.test_label_efficiency import measure, model_with_words, spelling
from tests.tasks.test_probe import batches, colours
from vlp.data.transforms import EvalTransform
from vlp.predictor import Predictor
from vlp.tasks.label_efficiency import LabelEfficiency
from vlp.tasks.prompts import Prompts
from vlp.tasks.zero_shot import ZeroShot

TEMPLATE = "a {}"


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("per_class", [False, True])
def test_without_a_step_it_is_zero_shot_classification(tmp_path: Path, several: bool, per_class: bool) -> None:
    data = colours(tmp_path, several=several)
    found = measure(Prompts(template=TEMPLATE, steps=[0], per_class=per_class), data)
    expected = measure(ZeroShot(templates=[TEMPLATE]), data)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("several", [False, True])
def test_labels_improve_it(tmp_path: Path, several: bool) -> None:
    data = colours(tmp_path, several=several)
    name = "mean_average_precision" if several else "top1"
    found = measure(Prompts(template=TEMPLATE, per_class=True), data)
    assert found["setting"] > 0
    assert found[name] > measure(ZeroShot(templates=[TEMPLATE]), data)[name] + 10


def test_it_is_a_row_of_the_label_curve(tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": ["prompts"], "templates": [TEMPLATE], "shots": [1, 4], "fractions": [1]}
    task = LabelEfficiency(**options, prompts={"per_class": True})
    figures = measure(task, colours(tmp_path))
    assert figures["prompts_percent_100"] > figures["zero_shot"]
    assert figures["zero_shot_worth_prompts"] is not None
    still = measure(LabelEfficiency(**options, prompts={"steps": [0]}), colours(tmp_path))
    assert still["prompts_percent_100"] == still["prompts_shots_1"] == figures["zero_shot"]


def test_a_saved_head_predicts_without_texts(tmp_path: Path) -> None:
    data, model = colours(tmp_path), model_with_words()
    task = Prompts(template=TEMPLATE, per_class=True)
    task.reset()
    task.split = "test"
    task.prepare(model, spelling(), data)
    loaded = Prompts(**task.head_settings())
    loaded.load_state_dict(task.state_dict())
    (batch,) = batches(data, size=11)
    shares = loaded.probabilities(model, batch.image)
    objectives = torch.nn.ModuleDict({"prompts": loaded})
    predictor = Predictor(model=model, objectives=objectives, transform=EvalTransform(image_size=4), batch_size=11)
    rows = predictor.classify([sample.image for sample in data.split("test")])
    assert [max(row, key=row.__getitem__) for row in rows] == [data.class_names[i] for i in shares.argmax(1)]
    assert 100 * float((shares.argmax(1) == batch.label).float().mean()) > 60
    assert [row["classes"][0][0] for row in loaded.predict(model, batch)] == [
        data.class_names[i] for i in shares.argmax(1)
    ]


def _rank_figures(rank: int, world: int, folder: str) -> dict[str, Any]:
    return measure(Prompts(template=TEMPLATE), colours(Path(folder)), start=rank, step=world)


def test_two_processes_are_one(tmp_path: Path) -> None:
    expected = measure(Prompts(template=TEMPLATE), colours(tmp_path / "data"))
    for figures in run_processes(2, _rank_figures, tmp_path / "out", str(tmp_path / "data")):
        assert figures == pytest.approx(expected, abs=1e-10)


def test_within_inference_mode(tmp_path: Path) -> None:
    """As Lightning evaluates; the weights are made before it."""
    data, model = colours(tmp_path), model_with_words()
    tasks = [Prompts(template=TEMPLATE), Prompts(template=TEMPLATE)]
    for task, mode in zip(tasks, (True, False), strict=True):
        task.split = "test"
        with torch.inference_mode(mode):
            task.prepare(model, spelling(), data)
    torch.testing.assert_close(tasks[0].head_weight, tasks[1].head_weight, rtol=0, atol=0)


def test_mistakes(tmp_path: Path) -> None:
    for options, message in (
        ({"weight": 1.0}, "weight=0"),
        ({"features": "pooled"}, "features=embed"),
        ({"steps": []}, "0 or more"),
        ({"rate": 0}, "above 0"),
        ({"template": "{} is there"}, "needs words before"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(Prompts(**options), colours(tmp_path))
    with pytest.raises(ValueError, match="with a text tower"):
        measure(Prompts(), colours(tmp_path), words=False)
    with pytest.raises(ValueError, match="prompts has no step: its settings are template"):
        LabelEfficiency(prompts={"step": 3})
