from __future__ import annotations

from pathlib import Path

import pytest

from vlp.launch.runs.folder import create_run_folder, safe_name


@pytest.mark.parametrize("letter", ["a", "é", "木"])
def test_a_long_name_of_any_alphabet_fits_a_file_system(tmp_path: Path, letter: str) -> None:
    name = safe_name(letter * 150)
    assert create_run_folder(tmp_path / name).is_dir()
    assert len(name) >= 60
