from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from vlp.models.dense.label_files import ResultFolder, write_label_map
from vlp.system.errors import UserError


def test_classes_are_written_as_the_values_of_the_data_set(tmp_path: Path) -> None:
    path = ResultFolder(tmp_path / "results").path(Path("photos/a.jpg"))
    write_label_map(path, torch.tensor([[0, 1, 1]]), values=(7, 255))
    assert path == tmp_path / "results" / "a.png"
    assert np.asarray(PIL.Image.open(path)).tolist() == [[7, 255, 255]]


def test_photos_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    results = ResultFolder(tmp_path)
    assert results.path(Path("one/a.jpg")) == results.path(Path("one/a.jpg"))
    with pytest.raises(UserError, match=r"one/a\.jpg and two/a\.png would both be a\.png"):
        results.path(Path("two/a.png"))
