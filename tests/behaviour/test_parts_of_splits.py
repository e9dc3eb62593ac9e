"""A figure of a part of a split is called one, and the card's digest is of the samples that were measured."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.mixtures import mixture
from tests.runs import SMALL_CLIP, TWO_PROCESSES, finish_run, make_run_folder
from vlp.data.parts import eval_split_statistics
from vlp.data.sampler import EvalSampler, evaluated_positions
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.compare import compare
from vlp.launch.runs.folder import freeze
from vlp.launch.runs.provenance import parts_of_checkpoint
from vlp.report.tables import print_results
from vlp.training.evaluate import evaluate

PART = ("trainer.limit_test_batches=1", "trainer.limit_val_batches=2", "trainer.max_epochs=1")
WITH_BASELINE = "callbacks=[checkpoint,progress,baseline]"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes") / "scenes"


@pytest.fixture(scope="module")
def trained(scenes: Path) -> tuple[Path, str]:
    """A run that measured one batch of 2 of its 6 test images, and 4 of its 6 val images."""
    folder = make_run_folder(scenes.parent / "run", *SMALL_CLIP, *PART, WITH_BASELINE, data=scenes)
    return folder, finish_run(folder)


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())  # type: ignore[no-any-return]


def evaluated(folder: Path, *overrides: str) -> tuple[dict[str, Any], str]:
    """results.json of an evaluation, and what it printed."""
    folder.mkdir(parents=True)
    composer = Composer(conf=conf_folder(), config_name="evaluate", of_checkpoint=parts_of_checkpoint)
    freeze(folder, resolve_config(composer.compose(list(overrides)), folder), "test")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluate(folder / "config.yaml")
    return results_of(folder), printed.getvalue()


def test_training_measures_a_part(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    results = results_of(folder)
    assert results["test/part"] == "2 of 6 samples"
    assert (results["test/samples"], results["test/split_samples"], results["test/images"]) == (2, 6, 2)
    assert results["test/scenes/retrieval/images"] == 2
    assert results["test/captions"] == results["test/scenes/retrieval/captions"]
    assert results["val/part"] == "4 of 6 samples"
    assert "part of the test split (2 of 6 samples)" in " ".join(printed.split())
    chance = results["test/scenes/retrieval/chance_image_to_text_r1"]
    assert results["test/scenes/ridge_baseline/image_to_text_r1"] in (0, 50, 100), (
        "the baseline ranks the same 2 images"
    )
    assert chance == pytest.approx(50)


def test_the_digest_is_of_what_was_measured(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = trained
    part = results_of(folder)
    same, printed = evaluated(tmp_path / "part", f"checkpoint={folder}", "trainer.limit_test_batches=1")
    assert same["test/sha256"] == part["test/sha256"]
    assert same["test/part"] == "2 of 6 samples"
    assert "part of the test split" in printed
    complete, printed = evaluated(tmp_path / "all", f"checkpoint={folder}")
    assert complete["test/part"] is None
    assert (complete["test/samples"], complete["test/images"]) == (6, 6)
    assert complete["test/sha256"] != part["test/sha256"]
    assert "part of" not in printed
    half, _ = evaluated(tmp_path / "half", f"checkpoint={folder}", "trainer.limit_test_batches=0.67")
    assert half["test/part"] == "4 of 6 samples"


def test_only_the_split_that_was_measured_is_on_the_card(trained: tuple[Path, str], tmp_path: Path) -> None:
    results, _ = evaluated(tmp_path / "val", f"checkpoint={trained[0]}", "split=val")
    assert results["val/samples"] == 6
    assert not any(name.startswith("test/") for name in results)


def test_without_validation_nothing_is_said_of_val(scenes: Path, tmp_path: Path) -> None:
    settings = (*SMALL_CLIP, "trainer.max_epochs=1", "trainer.limit_val_batches=0", "trainer.limit_test_batches=0")
    folder = make_run_folder(tmp_path / "run", *settings, data=scenes)
    finish_run(folder)
    results = results_of(folder)
    assert not any(name.startswith(("val/", "test/")) for name in results)
    assert results["selected_on"] is None, "no figure selected these weights"


def test_fast_dev_run_measures_a_part(scenes: Path, tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, "trainer.fast_dev_run=true", data=scenes)
    finish_run(folder)
    results = results_of(folder)
    assert results["test/part"] == results["val/part"] == "2 of 6 samples"
    assert results["selected_on"] is None


@pytest.mark.slow
def test_two_processes_measure_a_part(scenes: Path, tmp_path: Path) -> None:
    """Batches of 2 on each of 2 ranks: the first 4 samples."""
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, *TWO_PROCESSES, *PART, data=scenes)
    finish_run(folder)
    assert results_of(folder)["test/part"] == "4 of 6 samples"


def test_compare_marks_parts_and_other_samples(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for name, limit in (("part", "1"), ("all", "1.0")):
        evaluated(tmp_path / name, f"checkpoint={trained[0]}", f"trainer.limit_test_batches={limit}")
    figure = "test/scenes/retrieval/image_to_text_r1"
    compare([tmp_path], metrics=[figure], csv_file=tmp_path / "table.csv")
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("(part) ") == 1
    assert "(part): measured on a part of the split (test: 2 of 6 samples)" in printed
    assert f"{figure} was not measured on the same samples in all runs" in printed
    assert f"{figure} part" in (tmp_path / "table.csv").read_text().splitlines()[0]
    assert "2 of 6 samples" in (tmp_path / "table.csv").read_text()


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batches", [1, 2, 9])
def test_positions_are_those_that_the_ranks_loaded(world: int, batches: int) -> None:
    samplers = [EvalSampler(length=11, batch_size=2, rank=rank, world_size=world) for rank in range(world)]
    loaded = [[index for keys in list(sampler)[:batches] for _, index in keys] for sampler in samplers]
    assert evaluated_positions(11, [len(indices) for indices in loaded]) == sorted(
        index for indices in loaded for index in indices
    )


def test_each_source_of_a_mixture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """words is measured on 2 of 3 samples, asked completely, and nothing measures `last`."""
    data = mixture(tmp_path)
    data.setup()
    extents = {"test": {"samples": {"words": [2], "asked": [3]}, "counted": {"words/captioning": 2, "asked/vqa": 1}}}
    card = eval_split_statistics(data, extents)
    assert card["test/words/part"] == "2 of 3 samples"
    assert card["test/words/sha256"] == data.sources["words"].fingerprint("test", [0, 1])
    assert card["test/asked/part"] is None
    assert card["test/asked/sha256"] == data.sources["asked"].fingerprint("test")
    assert card["test/asked/vqa/part"] == "1 of 3 samples", "the task's figures leave samples out"
    assert "test/words/captioning/part" not in card
    assert not any(name.startswith("val/") for name in card)
    figures = {
        "test/words/captioning/bleu_1": 1.0,
        "test/asked/vqa/accuracy": 50.0,
        "test/asked/vqa/prior_accuracy": None,
    }
    print_results({**figures, **card, "seconds": 1.0}, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "words captioning, bleu 1: 1.0 (part of the test split: 2 of 3 samples)" in lines
    assert "asked vqa, accuracy: 50.0 (part of the test split: 1 of 3 samples)" in lines
    assert any(line.startswith("asked vqa, prior accuracy: undefined") for line in lines)
