from pathlib import Path

import pytest

from vlp.launch.check import check_targets
from vlp.launch.compose import data_root
from vlp.launch.errors import ConfigError


def test_data_root_is_the_first_folder_that_exists(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("VLP_DATA", raising=False)
    assert data_root("nothing_here") == str(Path("data/nothing_here"))  # the reader's own error then names it
    for folder in ("shared/data", "data", "work/data"):
        (tmp_path / folder / "photos").mkdir(parents=True)
        assert Path(data_root("photos")).resolve() == tmp_path / folder / "photos"
    (tmp_path / "elsewhere" / "photos").mkdir(parents=True)
    monkeypatch.setenv("VLP_DATA", str(tmp_path / "elsewhere"))
    assert data_root("photos") == str(tmp_path / "elsewhere" / "photos")
    assert data_root("drawn_later") == str(tmp_path / "elsewhere" / "drawn_later")


def test_a_source_that_its_mixture_cannot_finish_is_an_error() -> None:
    source = {"_target_": "vlp.data.scenes.Scenes", "name": "scenes"}
    with pytest.raises(ConfigError, match=r"set \+data\.sources\.scenes\._partial_=true"):
        check_targets({"data": {"sources": {"scenes": source}}})
    check_targets({"data": {"sources": {"scenes": source | {"_partial_": True}}}})


def test_an_objective_whose_package_line_is_missing_is_an_error() -> None:
    """Hydra would put it where nothing reads it, and the run would go on without it."""
    with pytest.raises(ConfigError, match=r"first line must be '# @package objectives.mine'"):
        check_targets({"objective": {"_target_": "vlp.objectives.mine.Mine"}, "objectives": {}})
