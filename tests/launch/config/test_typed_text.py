"""A text that reads as a number or a truth value stays what was typed: in overrides, files, sweeps and run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.resolve import resolve_config
from vlp.launch.config.typed_text import dump, typed_elements, typed_value
from vlp.launch.config.values import swept_values
from vlp.launch.runs.folder import freeze, parent_folder, read_frozen_config

TEXTS = [
    "1e5",
    "1_000",
    "0x10",
    "0123",
    "on",
    "yes",
    "true",
    "off",
    "2024-01-01",
    "12:30",
    ".5",
    "1.",
    "inf",
    "1E5",
    "+1e5",
]


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(conf=conf_folder(), config_name="train")


def frozen(composer: Composer, folder: Path, *lines: str) -> Any:
    """The config as a run reads it back from its folder."""
    config = resolve_config(composer.compose(list(lines)), Path("run"))
    freeze(folder, config, "train")
    return read_frozen_config(folder / "config.yaml")


@pytest.mark.parametrize("text", TEXTS)
def test_text_of_an_override(composer: Composer, tmp_path: Path, text: str) -> None:
    lines = [f"name={text}", f"data.root={text}", f"loggers.wandb.group={text}", f"loggers.wandb.tags=[{text},b]"]
    config = frozen(composer, tmp_path, *(line.replace("12:30", "'12:30'") for line in lines))
    assert (config.name, config.data.root, config.loggers.wandb.group) == (text, text, text)
    assert list(config.loggers.wandb.tags) == [text, "b"]


def test_the_folder_has_the_name_that_was_typed(composer: Composer) -> None:
    assert parent_folder(resolve_config(composer.compose(["name=1e5", "runs=007"]), Path("run"))) == Path("007/1e5")


@pytest.mark.parametrize(
    "key", ["name", "runs", "data.root", "checkpoint", "resume", "monitor", "loggers.wandb.project"]
)
def test_an_empty_text_is_not_replaced_by_another(composer: Composer, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}=: the value is empty"):
        composer.compose([f"{key}="])


@pytest.mark.parametrize("key", ["name", "runs"])
def test_a_run_folder_needs_a_name(composer: Composer, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is empty"):
        parent_folder(resolve_config(composer.compose([f"{key}=null"]), Path("run")))


def test_a_path_that_reads_as_a_number(composer: Composer) -> None:
    with pytest.raises(ConfigError, match="checkpoint=1e5: there is no such file or folder"):
        resolve_config(composer.compose(["checkpoint=1e5"]), Path("run"))


def test_what_is_a_number_stays_one(composer: Composer, tmp_path: Path) -> None:
    lines = ("optimizer.lr=1e-4", "trainer.devices=1", "data.captions=2", "data.images={train: 1_00}", "seed=7")
    config = frozen(composer, tmp_path, *lines)
    assert config.optimizer.lr == 1e-4
    assert (config.trainer.devices, config.data.captions, config.data.images.train, config.seed) == (1, 2, 100, 7)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an experiment and a data set of one's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("experiment", "data"):
        (tmp_path / "conf" / name).mkdir(parents=True)
    data = (conf_folder() / "data" / "table.yaml").read_text()
    (tmp_path / "conf" / "data" / "own.yaml").write_text(data.replace("name: table", "name: 0123"))
    return tmp_path


@pytest.mark.parametrize("text", TEXTS)
def test_text_of_an_experiment(own: Path, text: str) -> None:
    file = own / "conf" / "experiment" / "mine.yaml"
    wandb = f"loggers: {{wandb: {{tags: [{text}], group: '{text}', project: {text.replace(':', '.')}}}}}"
    file.write_text(f"# @package _global_\nname: {text}\ndata:\n  root: {text}\n{wandb.replace('12:30', '12.30')}\n")
    config = frozen(Composer(conf=conf_folder(), config_name="train"), own, "experiment=mine")
    assert (config.name, config.data.root) == (text, text)
    assert list(config.loggers.wandb.tags) == [text.replace(":", ".")]


def test_text_of_a_group_of_ones_own(own: Path) -> None:
    composer = Composer(conf=conf_folder(), config_name="train")
    config = frozen(composer, own, "data=own")
    assert (config.data.name, config.name) == ("0123", "0123")
    assert frozen(composer, own, "data=own", "name=7").name == "7"


@pytest.mark.parametrize("text", [*TEXTS, "1.5e3", "-2e-5", "~", "null", " a", "a: b"])
def test_a_text_is_read_back_from_a_run_folder_by_every_reader(text: str) -> None:
    written = dump({"a": [text]})
    assert OmegaConf.create(written)["a"][0] == text
    assert yaml.safe_load(written) == {"a": [text]}


def test_values_of_a_sweep(composer: Composer) -> None:
    composer.compose([])
    for line, values in {
        "name=1e5,2_0,x": ["1e5", "2_0", "x"],
        "name=choice(1e5,true)": ["1e5", "true"],
        "loggers.wandb.group=1e5,on": ["1e5", "on"],
        "optimizer.lr=1e-4,3e-4": ["0.0001", "0.0003"],
        "seed=range(2)": ["0", "1"],
    }.items():
        assert swept_values(composer.parse([line])[0], composer.known) == values


def test_jobs_of_a_sweep_have_the_names_that_were_typed(vlp: Any) -> None:
    assert vlp("train", "-m", "name=1e5,2_0").returncode == 0
    (file,) = vlp.folder.glob("runs/*/*/sweep.json")
    jobs = json.loads(file.read_text())["jobs"]
    assert [job["overrides"] for job in jobs] == ["name=1e5", "name=2_0"]
    assert [read_frozen_config(vlp.folder / job["folder"] / "config.yaml").name for job in jobs] == ["1e5", "2_0"]


def test_resuming_keeps_the_text(vlp: Any) -> None:
    assert vlp("train").returncode == 0
    (folder,) = (vlp.folder / "runs" / "scenes").iterdir()
    assert vlp("train", f"resume={folder}", "data.root=1e5").returncode == 0
    assert read_frozen_config(folder / "config.yaml").data.root == "1e5"


def test_nested_values_as_typed() -> None:
    assert typed_value("[1e5, {a: 007, 'b': [on, 'x, y']}]") == ["1e5", {"a": "007", "b": ["on", "'x, y'"]}]
    assert typed_elements("choice(1e5, 'a,b')") == ["1e5", "'a,b'"]


@pytest.mark.parametrize("value", ["${oc.env:MY_LR,0.003}", "${oc.env:MY_LR,fast}"])
def test_a_text_where_a_number_is_due(own: Path, value: str) -> None:
    (own / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\noptimizer:\n  lr: {value}\n")
    composer = Composer(conf=conf_folder(), config_name="train")
    message = r"optimizer.lr=.*expects a float .*conf/experiment/mine.yaml.*write \$\{oc.decode:\$\{oc.env:MY_LR,"
    with pytest.raises(ConfigError, match=message):
        composer.compose(["experiment=mine"])
    with pytest.raises(ConfigError, match=r"trainer.max_epochs=.*expects an integer"):
        composer.compose(["trainer.max_epochs=${oc.env:MY_EPOCHS,3}"])


def test_a_decoded_environment_variable_is_a_number(own: Path) -> None:
    text = "# @package _global_\noptimizer:\n  lr: ${oc.decode:${oc.env:MY_LR,0.003}}\n"
    (own / "conf" / "experiment" / "mine.yaml").write_text(text)
    composer = Composer(conf=conf_folder(), config_name="train")
    assert resolve_config(composer.compose(["experiment=mine"]), own)["optimizer"]["lr"] == 0.003
