"""A figure that is undefined for the samples at hand is None (null in results.json), not a number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.behaviour.test_nonfinite_figures import measure
from tests.behaviour.test_world_evaluation import tasks, toy, write_images
from vlp.launch.runs.results import write_results
from vlp.metrics.bootstrap import recall_gains
from vlp.metrics.caption_metrics import caption_scores
from vlp.report.tables import print_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


def test_cider_of_one_image() -> None:
    """The idf of every n-gram is log(1 / 1): the original prints 0 for a perfect caption."""
    scores = caption_scores({1: "a red dog"}, {1: ["a red dog"]})
    assert scores["cider_d"] is None
    assert scores["bleu_1"] == pytest.approx(1)
    two = caption_scores({1: "a red dog", 2: "a cat"}, {1: ["a red dog"], 2: ["a cat"]})
    assert two["cider_d"] is not None
    assert two["cider_d"] > 0


def test_an_empty_caption_is_defined() -> None:
    """As in the original, by its brevity penalty and by no common word."""
    scores = caption_scores({1: "", 2: "a cat"}, {1: ["a red dog"], 2: ["a cat"]})
    assert all(value is not None and 0 <= value < 1 for name, value in scores.items() if name != "cider_d")
    nothing = caption_scores({1: "", 2: ""}, {1: ["a red dog"], 2: ["a cat"]})
    assert set(nothing.values()) == {0.0}


def test_an_interval_of_one_image(capsys: pytest.CaptureFixture[str]) -> None:
    ties = torch.tensor([[0, 1, 1]])
    one = recall_gains([ties, ties], [ties, ties], [torch.tensor([7])] * 2)
    assert one["r1_gain"] == 0
    bounds = [value for name, value in one.items() if name.endswith(("_low", "_high"))]
    assert len(bounds) == 6
    assert set(bounds) == {None}
    assert "95 % interval undefined for one image" in capsys.readouterr().err
    ties = ties.repeat(2, 1)
    assert None not in recall_gains([ties, ties], [ties, ties], [torch.tensor([7, 8])] * 2).values()


@pytest.mark.parametrize("name", ["captioning", "matching", "reranked"])
def test_tasks_of_one_image(folder: Path, name: str) -> None:
    task = tasks(folder)["captions"][name]
    figures = measure(toy(), task, "captions", folder, count=1)
    undefined = {key.split("/")[2] for key, value in figures.items() if value is None}
    assert undefined == {
        "captioning": {"cider_d"},
        "matching": {
            "accuracy", "random_accuracy", "random_negative_accuracy", "hard_accuracy", "hard_negative_accuracy",
        },
        "reranked": {f"{gain}_{bound}" for gain in ("image_to_text_r1_gain", "text_to_image_r1_gain", "r1_gain")
                     for bound in ("low", "high")},
    }[name]  # fmt: skip


def test_classes_without_images_are_counted(folder: Path) -> None:
    """The mean over classes is over those that occur, and says over how many."""
    figures = measure(toy(), tasks(folder)["classes"]["zero_shot"], "classes", folder, count=2)
    assert figures["classes/task/classes"] == 2
    figures = measure(toy(), tasks(folder)["classes"]["zero_shot"], "classes", folder, count=6)
    assert figures["classes/task/classes"] == 3


def test_results_and_table_call_it_undefined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"test/scenes/captioning/cider_d": None, "test/scenes/captioning/bleu_1": 50.0, "seconds": 1.0}
    results = write_results(tmp_path, figures, {"test/part": None})
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert results["test/scenes/captioning/cider_d"] is None
    print_results(results, tmp_path)
    printed = capsys.readouterr().out
    assert "scenes captioning, cider d: undefined" in printed
    assert "scenes captioning, bleu 1: 50.0" in printed


def test_recalls_that_any_model_reaches_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recalls = {f"test/scenes/retrieval/{prefix}{direction}_r{k}": 100.0 for prefix in ("", "chance_")
               for direction in ("image_to_text", "text_to_image") for k in (1, 5, 10)}  # fmt: skip
    for images, marked in ((6, True), (11, False)):
        counts = {"test/scenes/retrieval/images": float(images), "test/scenes/retrieval/captions": 5.0 * images}
        print_results({**recalls, **counts, "seconds": 1.0}, tmp_path)
        printed = " ".join(capsys.readouterr().out.split())
        assert ("100 for any model where there are k candidates or fewer: 6 images" in printed) == marked
