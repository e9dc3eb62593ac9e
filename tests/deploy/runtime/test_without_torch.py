"""An artifact runs where neither torch nor any other package of training is installed: in an interpreter that sees numpy, Pillow,
tokenizers, jaxtyping, ONNX Runtime and vlp alone."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import vlp
from tests.data.pictures import picture
from tests.deploy.runtime.onnx_artifact import write_onnx_artifact
from vlp.deploy.runtime.engine import open_artifact

PACKAGES = ("numpy", "pillow", "tokenizers", "jaxtyping", "onnxruntime")
PROGRAM = """
import importlib.util, json, sys
from vlp.deploy.runtime.engine import open_artifact

engine = open_artifact(sys.argv[1])
images, texts = sys.argv[2:], ["a red dog", "a blue cat"]
result = {
    "similarity": engine.similarity(images, texts).tolist(),
    "classify": engine.classify(images),
    "labels": engine.classify([open(path, "rb").read() for path in images], ["dog", "cat"]),
    "torch": [name for name in ("torch", "torchvision", "lightning", "transformers", "hydra") if importlib.util.find_spec(name)],
}
print(json.dumps(result))
"""


def link_packages(folder: Path, names: Iterable[str]) -> Path:
    """A folder with links to those packages alone, and to vlp."""
    for name in names:
        distribution = importlib.metadata.distribution(name)
        tops = {
            file.parts[0] for file in distribution.files or () if ".." not in file.parts and "bin" not in file.parts
        }
        for top in tops - {"__pycache__"}:
            (folder / top).symlink_to(distribution.locate_file(top))
    (folder / "vlp").symlink_to(Path(str(vlp.__file__)).parent)
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_packages(tmp_path_factory.mktemp("packages"), PACKAGES)


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # -S: without this interpreter's own packages
    command = [sys.executable, "-S", "-W", "ignore", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env={**environment, "PYTHONPATH": str(folder)}, cwd=folder
    )


def test_an_artifact_runs_without_torch(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    write_onnx_artifact(tmp_path / "artifact")
    paths = []
    for seed in range(3):
        picture(seed, (60, 40)).save(path := tmp_path / f"{seed}.jpg")
        paths.append(str(path))
    done = _run(packages, "-c", PROGRAM, str(tmp_path / "artifact"), *paths)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["torch"] == []
    engine = open_artifact(tmp_path / "artifact")
    np.testing.assert_allclose(result["similarity"], engine.similarity(paths, ["a red dog", "a blue cat"]), atol=1e-5)
    assert [list(each) for each in result["classify"]] == [["cat", "dog", "cow"]] * 3
    assert [list(each) for each in result["labels"]] == [["dog", "cat"]] * 3


def test_every_module_of_the_runtime_is_imported_without_torch(packages: Path) -> None:
    folder = Path(str(vlp.__file__)).parent / "deploy" / "runtime"
    names = [f"vlp.deploy.runtime.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    assert "vlp.deploy.runtime.engine" in names
    done = _run(packages, "-c", f"import {', '.join(names)}")
    assert done.returncode == 0, done.stderr


def test_photos_are_indexed_and_found_with_the_packages_that_the_guide_names(tmp_path: Path) -> None:
    guide = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "runtime.md").read_text()
    (line,) = re.findall(r"^pip install (numpy .*)$", guide, flags=re.MULTILINE)
    (tmp_path / "packages").mkdir()
    packages = link_packages(tmp_path / "packages", line.split())
    (tmp_path / "artifact").mkdir()
    write_onnx_artifact(tmp_path / "artifact")
    (tmp_path / "photos").mkdir()
    picture(0, (60, 40)).save(tmp_path / "photos" / "0.jpg")
    store = ("--store", str(tmp_path / "store"))
    indexed = _run(
        packages, "-m", "vlp.cli", "index", str(tmp_path / "photos"), "--engine", str(tmp_path / "artifact"), *store
    )
    assert indexed.returncode == 0, indexed.stderr
    found = _run(packages, "-m", "vlp.cli", "search", "a red dog", *store)
    assert found.returncode == 0, found.stderr
    assert f"{tmp_path}/photos/0.jpg" in found.stdout
