from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlp.launch.runs.label_points import read_label_points


def write_run(folder: Path, results: dict[str, object], images: int | None) -> None:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.yaml").write_text(f"data: {{max_train_samples: {'null' if images is None else images}}}\n")


def test_runs_are_grouped_by_their_training_images(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"test/scenes/classification/top1": 20.0, "seconds": 3}, 10)
    write_run(tmp_path / "sweep" / "0", {"test/scenes/classification/top1": 30.0}, 10)
    write_run(tmp_path / "sweep" / "1", {"test/scenes/classification/top1": 90.0}, None)
    write_run(tmp_path / "other", {"val/scenes/classification/top1": 1.0, "test/scenes/retrieval/rsum": 2.0}, 5)
    assert read_label_points(tmp_path, "top1", 1000) == {10: [20.0, 30.0], 1000: [90.0]}


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has test/…/classification/top1: give a folder of finished"):
        read_label_points(tmp_path / "nowhere", "top1", 1000)
