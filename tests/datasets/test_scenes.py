from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlp.datasets.scenes import Scenes

COUNTS = {"train": 6, "val": 4, "test": 3}


def scenes(root: Path, loading: dict[str, Any], **changed: Any) -> Scenes:
    return Scenes(root=root, **{"images": COUNTS, "size": 32, **loading, **changed})


def test_scenes_are_drawn_once_and_read_with_their_choices(tmp_path: Path, loading: dict[str, Any]) -> None:
    data = scenes(tmp_path, loading, seed=1)
    data.prepare_data()
    stamp = (data.root / "manifest.json").stat().st_mtime_ns
    again = scenes(tmp_path, loading, seed=2)
    again.prepare_data()
    assert again.root == data.root
    assert (data.root / "manifest.json").stat().st_mtime_ns == stamp
    data.setup()
    assert [len(data.split(split)) for split in COUNTS] == list(COUNTS.values())
    (batch,) = data.test_dataloader()
    assert batch.caption is not None
    assert batch.caption.ids.shape[:2] == (3, 5)
    assert batch.choices is not None
    assert batch.choices.ids.shape[:2] == (3, 2)
    assert batch.label.tolist() == [0, 0, 0]
    for sample in data.split("val"):
        assert sample.choices[0] in sample.captions
        assert sample.choices[1] not in sample.captions
    first = next(iter(data.train_dataloader()))
    assert first.choices is None
    assert first.label is None


@pytest.mark.parametrize("changed", [{"size": 40}, {"scene_seed": 1}, {"images": {**COUNTS, "test": 2}}])
def test_other_scenes_have_a_folder_of_their_own(
    tmp_path: Path, loading: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert scenes(tmp_path, loading, **changed).root != scenes(tmp_path, loading).root
