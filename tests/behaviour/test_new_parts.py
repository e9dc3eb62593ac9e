"""The four examples of CONTRIBUTING.md (a data set, a tower, an objective, a task), copied from the page as a reader does: their
own tests pass, `vlp ls` lists them, and a run takes each by its name. No other file of the tree changes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'^```(?:python|yaml) title="([^"]+)"\n(.*?)^```$', PAGE, re.M | re.S))
SHORT = (
    "trainer.max_steps=2", "trainer.max_epochs=1", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
    "trainer.log_every_n_steps=1", "data.batch_size=8", "data.eval_batch_size=8", "data.num_workers=0", "logger=none",
    "callbacks=[checkpoint]", "model.text.width=16", "model.projection.width=8", "tokenizer.size=300",
)  # fmt: skip
SCENES = "data.images={train: 16, val: 8, test: 8}"
SMALL_CNN = "model.vision.channels=4"
RUNS: dict[str, tuple[str, ...]] = {
    "data": ("data=mine", SMALL_CNN, "task=[retrieval]"),
    "model/vision": (SCENES, "model/vision=mine", "task=[retrieval]"),
    "objective": (SCENES, SMALL_CNN, "objective=[itc,mine]", "objectives.mine.weight=0.5", "task=[retrieval]"),
    "task": (SCENES, SMALL_CNN, "task=[retrieval,mine]"),
}  # config group of an example → overrides of a run that uses it


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files of all examples. With compiled modules: shape checks make compiling slow."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("behaviour", "*.pyc.*")  # the last are being written
    for name in ("vlp", "conf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("train.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name, content in FILES.items():
        assert not (folder / name).exists()
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def call(checkout: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=checkout, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def write_images(folder: Path) -> None:
    """In the layout of the example's data set."""
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", 16), ("val", 8), ("test", 8)):
        lines = []
        for number in range(count):
            name = f"{split}_{number}.png"
            PIL.Image.new("RGB", (64, 64), (15 * number, 100, 0)).save(folder / "images" / name)
            lines.append(f"{name}\tpicture {number} of {split}\n")
        (folder / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")


def train(checkout: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    """The figures of metrics.jsonl and of results.json by name."""
    call(
        checkout,
        "train.py",
        *SHORT,
        "name=short",
        f"data.root={folder / 'data'}",
        f"runs={folder / 'runs'}",
        *overrides,
    )
    (run,) = (folder / "runs" / "short").iterdir()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    records.append(json.loads((run / "results.json").read_text()))
    return {name: value for record in records for name, value in record.items()}


def test_tests_of_the_examples_pass(checkout: Path) -> None:
    tests = [name for name in FILES if name.startswith("tests/")]
    assert len(tests) == len(RUNS)
    output = call(checkout, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-p", "no:xdist", *tests)
    assert {file.partition("::")[0] for file in re.findall(r"^PASSED (\S+)", output, re.M)} == set(tests)


@pytest.mark.parametrize("group", RUNS)
def test_an_example_is_listed_and_used(group: str, checkout: Path, tmp_path: Path) -> None:
    description = re.search(r"^# (?!@package)(.*)$", FILES[f"conf/{group}/mine.yaml"], re.M)
    assert description is not None
    assert re.search(rf"^ *mine +{re.escape(description[1])}$", call(checkout, "-m", "vlp.cli", "ls", group), re.M)
    if group == "data":
        write_images(tmp_path / "data")
    figures = train(checkout, tmp_path, *RUNS[group])
    source = "mine" if group == "data" else "scenes"
    assert figures["steps"] == 2
    assert f"train/{source}/itc/loss" in figures
    assert (f"train/{source}/mine/loss" in figures) == (group == "objective")
    assert (f"val/{source}/mine/cosine" in figures) == (group == "task")


def test_objectives_are_independent(checkout: Path, tmp_path: Path) -> None:
    """The example beside ALBEF's objectives, of which one is left out."""
    albef = ("model=albef_tiny", "model.fusion.width=16", SCENES, SMALL_CNN, "task=[retrieval]")
    figures = train(checkout, tmp_path, *albef, "objective=[itc,mlm,mine]")
    losses = {name.split("/")[2] for name in figures if re.fullmatch(r"train/scenes/\w+/loss", name)}
    assert losses == {"itc", "mlm", "mine"}
