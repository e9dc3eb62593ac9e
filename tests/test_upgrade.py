"""Old names in configs, overrides and YAML of one's own are read as today's."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import vlp.upgrade
from vlp.launch.config.compose import Composer, conf_folder, warn_once
from vlp.upgrade import renamed_keys, upgrade, upgrade_override, upgrade_target

OLD = {
    "data": {"_target_": "vlp.data.karpathy.Karpathy", "root": "here"},
    "model": {"vision": {"towers": [{"_target_": "vlp.models.vision.side_by_side.SideBySide"}]}},
    "objectives": {"mlm": {"share": 0.3, "rarity": 1.0, "draws": 2}},
    "schedule": {"minimum": 0.1},
    "sweep": {"on": "here", "minutes": 3, "slurm": {"minutes": 60, "partition": None}},
}
NEW = {
    "data": {"_target_": "vlp.datasets.karpathy.Karpathy", "root": "here"},
    "model": {"vision": {"towers": [{"_target_": "vlp.models.vision.concat.ConcatTower"}]}},
    "objectives": {"mlm": {"mask_prob": 0.3, "rare_word_exponent": 1.0, "num_maskings": 2}},
    "schedule": {"min_lr_ratio": 0.1},
    "sweep": {"executor": "local", "time_limit_min": 3, "slurm": {"time_limit_min": 60, "partition": None}},
}


def test_targets_keys_and_values() -> None:
    assert upgrade(OLD) == NEW
    assert upgrade(NEW) == NEW
    assert upgrade({"schedule": {"minimum": 0.1, "min_lr_ratio": 0.2}}) == {"schedule": {"min_lr_ratio": 0.2}}
    assert upgrade({"name": "here", "list": ["here"]}) == {"name": "here", "list": ["here"]}


def test_every_new_target_is_there() -> None:
    for old, new in vlp.upgrade._TARGETS.items():
        module, _, name = new.rpartition(".")
        assert upgrade_target(f"{old}.X") == f"{new}.X"
        if name[0].isupper():
            assert hasattr(importlib.import_module(module), name)
        else:
            importlib.import_module(new)


def test_every_new_key_is_in_the_yaml() -> None:
    composer = Composer(conf=conf_folder(), config_name="train")
    config = composer.compose(["objective=[itc,mlm]", "task=[retrieval]", "model=albef_tiny"])
    for old, new in vlp.upgrade._KEYS.items():
        assert OmegaConf.select(config, new, default="absent") != "absent", new
        assert OmegaConf.select(config, old, default="absent") == "absent", old


@pytest.mark.parametrize(
    ("line", "today"),
    [
        ("schedule.minimum=0.1", "schedule.min_lr_ratio=0.1"),
        ("data=flat_json", "data=salesforce_json"),
        ("+data@data.sources.sbu=flat_json", "+data@data.sources.sbu=salesforce_json"),
        ("sweep.on=here", "sweep.executor=local"),
        ("+data._target_=vlp.data.coco.COCO", "+data._target_=vlp.datasets.coco.COCO"),
        ("optimizer.lr=0.1", "optimizer.lr=0.1"),
        ("~schedule.minimum", "~schedule.min_lr_ratio"),
    ],
)
def test_overrides(line: str, today: str) -> None:
    found, warning = upgrade_override(line)
    assert found == today
    assert (warning is None) == (line == today)


def test_old_words_on_the_command_line_and_in_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "data").mkdir()
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: mine\nschedule:\n  minimum: 0.2\n"
    )
    (tmp_path / "conf" / "data" / "mine.yaml").write_text(
        "_target_: vlp.data.karpathy.Karpathy\nname: mine\nroot: here\n"
    )
    monkeypatch.chdir(tmp_path)
    warn_once.cache_clear()
    config = Composer(conf=conf_folder(), config_name="train").compose(
        ["experiment=mine", "callbacks.checkpoint.full_disk=continue"]
    )
    assert config.schedule.min_lr_ratio == 0.2
    assert "minimum" not in config.schedule
    assert config.callbacks.checkpoint.on_disk_full == "continue"
    assert config.data._target_ == "vlp.datasets.karpathy.Karpathy"
    printed = capsys.readouterr().err
    for today in (
        "schedule.min_lr_ratio",
        "callbacks.checkpoint.on_disk_full=continue",
        "vlp.datasets.karpathy.Karpathy",
    ):
        assert f"write {today}" in printed


def test_renamed_keys_are_found_where_they_stand() -> None:
    assert ("schedule.minimum", "schedule.min_lr_ratio") in renamed_keys(OLD)
    assert renamed_keys(NEW) == []


def test_the_old_module_of_data_sets_warns() -> None:
    from vlp.data.datamodule import DataModule

    with pytest.warns(FutureWarning, match=r"write from vlp\.data\.datamodule import DataModule"):
        assert importlib.import_module("vlp.data.base").DataModule is DataModule


def test_an_argument_that_was_null_is_todays_group_of_keys() -> None:
    old = {"data": {"_target_": "vlp.data.shards.Shards", "splits": None, "root": "x"}}
    data = upgrade(old)["data"]
    assert data["splits"] == {"train": None, "val": None, "test": None}
    assert upgrade({"data": {**data, "splits": {"train": "a.tar"}}})["data"]["splits"] == {"train": "a.tar"}
