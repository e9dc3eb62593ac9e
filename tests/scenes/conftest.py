"""One small set, written once, and what its files say: the checks below read nothing of the generator's own records."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vlp.scenes.generate import generate

COUNTS = {"train": 40, "restval": 5, "val": 20, "test": 20}


@dataclass
class Seen:
    shape: str
    colour: str
    texture: str
    size: str
    box: tuple[int, int, int, int]  # left, top, right, bottom


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated") / "scenes"
    generate(out, images=COUNTS, size=64, seed=3)
    return out


def load(root: Path, name: str) -> Any:
    return json.loads((root / name).read_text())


@pytest.fixture(scope="session")
def seen(root: Path) -> dict[int, list[Seen]]:
    """The things of each image by Visual Genome's attributes file."""
    things = defaultdict(list)
    for entry in load(root, "visual_genome/attributes.json"):
        for o in entry["attributes"]:
            colour, texture, size = o["attributes"]
            box = (o["x"], o["y"], o["x"] + o["w"], o["y"] + o["h"])
            things[entry["image_id"]].append(Seen(o["names"][0], colour, texture, size, box))
    return things


@pytest.fixture(scope="session")
def grounds(root: Path) -> dict[int, str]:
    """The background of each image by the answer to the question about it."""
    questions = [q for entry in load(root, "visual_genome/question_answers.json") for q in entry["qas"]]
    return {q["image_id"]: q["answer"].strip(".").lower() for q in questions if "background" in q["question"]}


@pytest.fixture(scope="session")
def referring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same set with its additions."""
    out = tmp_path_factory.mktemp("additions") / "scenes"
    generate(out, images=COUNTS, size=64, seed=3, additions=("refcoco", "panoptic"))
    return out


@pytest.fixture(scope="session")
def crowded_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("crowded") / "scenes"
    generate(out, images=COUNTS, size=128, seed=3, crowded=True, additions=("refcoco", "panoptic"))
    return out
