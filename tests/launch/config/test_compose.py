from pathlib import Path

import pytest

from vlp.launch.config.compose import Composer, conf_folder, data_root, study_folders
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.schema import check_targets


def test_data_root_is_the_first_folder_that_exists(tmp_path, monkeypatch):
    for folder in ("work", "checkout/vlp"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("vlp.launch.config.compose.PACKAGE", tmp_path / "checkout" / "vlp")
    monkeypatch.delenv("VLP_DATA", raising=False)
    for folder in ("data", "shared/data"):  # nothing outside the repository and the working folder is tried
        (tmp_path / folder / "photos").mkdir(parents=True)
    assert data_root("photos") == str(Path("data/photos"))  # the reader's own error then names it
    for folder in ("checkout/data", "work/data"):
        (tmp_path / folder / "photos").mkdir(parents=True)
        assert Path(data_root("photos")).resolve() == tmp_path / folder / "photos"
    (tmp_path / "elsewhere" / "photos").mkdir(parents=True)
    monkeypatch.setenv("VLP_DATA", str(tmp_path / "elsewhere"))
    assert data_root("photos") == str(tmp_path / "elsewhere" / "photos")
    assert data_root("drawn_later") == str(tmp_path / "elsewhere" / "drawn_later")


def study(root: Path, name: str, option: str) -> Path:
    folder = root / "experiments" / name / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / f"{option}.yaml").write_text(f"# @package _global_\n# my study\nname: {option}\n")
    return folder.parent


def test_yaml_of_studies_in_the_working_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    last, first = study(tmp_path, "b", "mine"), study(tmp_path, "a", "other")
    assert study_folders()[:2] == [first, last]
    composer = Composer(conf=conf_folder(), config_name="train")
    assert composer.compose(["experiment=mine"]).name == "mine"
    assert composer.file("experiment/mine") == "experiments/b/conf/experiment/mine.yaml"
    study(tmp_path, "c", "mine")
    with pytest.raises(ConfigError, match=r"experiments/c/conf/experiment/mine.yaml: .*has the same name"):
        Composer(conf=conf_folder(), config_name="train")


def test_without_its_study_an_experiment_says_where_it_is(tmp_path, monkeypatch):
    """As in an installed package, which brings no studies."""
    folder = study(tmp_path, "mine", "mine")
    monkeypatch.setattr("vlp.launch.config.compose.study_folders", list)
    with pytest.raises(ConfigError, match=r"run in a checkout, or add --config-dir experiments/mine/conf$") as raised:
        Composer(conf=conf_folder(), config_name="train").compose(["experiment=mine"])
    assert len(str(raised.value).splitlines()) == 1
    composer = Composer(conf=conf_folder(), config_name="train", extra=[folder])
    assert composer.compose(["experiment=mine"]).name == "mine"


def test_a_source_that_its_mixture_cannot_finish_is_an_error() -> None:
    source = {"_target_": "vlp.datasets.scenes.Scenes", "name": "scenes"}
    with pytest.raises(ConfigError, match=r"set \+data\.sources\.scenes\._partial_=true"):
        check_targets({"data": {"sources": {"scenes": source}}})
    check_targets({"data": {"sources": {"scenes": source | {"_partial_": True}}}})


def test_an_objective_whose_package_line_is_missing_is_an_error() -> None:
    """Hydra would put it where nothing reads it, and the run would continue without it."""
    with pytest.raises(ConfigError, match=r"first line must be '# @package objectives.mine'"):
        check_targets({"objective": {"_target_": "vlp.objectives.mine.Mine"}, "objectives": {}})
