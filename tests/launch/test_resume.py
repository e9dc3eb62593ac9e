"""resume=FOLDER: which settings may be changed, where the run's paths lead, and what is kept of the config before."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from vlp.launch.config.changes import changes, same_settings
from vlp.launch.process import redact_overrides
from vlp.launch.runs.folder import read_frozen_config


@pytest.fixture
def run(vlp: Any) -> Path:
    """A folder of a run that was started in vlp.folder, by a relative name."""
    done = vlp("train", "optimizer.lr=0.5")
    assert done.returncode == 0, done.stderr
    (folder,) = (vlp.folder / "runs" / "scenes").iterdir()
    (folder / "results.json").unlink()
    return folder


def resumed(vlp: Any, folder: Path, *overrides: str, code: int = 0, cwd: Path | None = None, **environment: str) -> str:
    prepared = vlp.prepared("train", f"resume={folder}", *overrides, **environment)
    done = subprocess.run(**{**prepared, "cwd": cwd or prepared["cwd"]}, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_the_config_stays_and_free_settings_change(vlp: Any, run: Path) -> None:
    before = (run / "config.yaml").read_text()
    resumed(vlp, run)
    assert (run / "config.yaml").read_text() == before
    resumed(vlp, run, "data.num_workers=2", "trainer.devices=2")
    config = read_frozen_config(run / "config.yaml")
    assert (config.data.num_workers, config.trainer.devices, config.optimizer.lr) == (2, 2, 0.5)
    assert (run / "config.1.yaml").read_text() == before
    (run / "config.1.yaml").rename(run / "config.2.yaml")
    resumed(vlp, run, "data.num_workers=1")
    assert (run / "config.2.yaml").read_text() == before
    head = (run / "config.yaml").read_text().splitlines()
    assert head[0] == "# vlp train optimizer.lr=0.5"
    assert [line for line in head if line.startswith("# resumed")] == ["# resumed with: data.num_workers=1"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=3", "seed: 0 became 3"),
        ("optimizer.lr=null", "optimizer.lr: 0.5 became None"),
        ("model=wide", "continues with its own parts"),
        ("objective=[siglip]", "continues with its own parts"),
        ("seed=1,2", "continues with one config"),
        ("+data.more=1", "continues with one config"),
        ("~data.extra", "continues with one config"),
        ("data.num_worker=2", "which has no data.num_worker"),
        ("data.num_workers=many", "data.num_workers"),
    ],
)
def test_what_is_refused_leaves_the_config_as_it_was(vlp: Any, run: Path, override: str, sentence: str) -> None:
    before = (run / "config.yaml").read_text()
    assert sentence in resumed(vlp, run, override, code=2)
    assert (run / "config.yaml").read_text() == before


def test_force_is_asked_for_each_time(vlp: Any, run: Path) -> None:
    resumed(vlp, run, "seed=3", "force=true")
    assert read_frozen_config(run / "config.yaml").seed == 3
    assert "seed: 3 became 4" in resumed(vlp, run, "seed=4", code=2)


def test_a_setting_that_was_null_can_be_given(vlp: Any, conf: Path) -> None:
    file = conf / "train.yaml"
    file.write_text(file.read_text().replace("num_workers: 0", "num_workers: null"))
    assert vlp("train").returncode == 0
    (folder,) = (vlp.folder / "runs" / "scenes").iterdir()
    resumed(vlp, folder, "data.num_workers=2")
    assert read_frozen_config(folder / "config.yaml").data.num_workers == 2


def test_from_another_folder_and_after_a_move(vlp: Any, run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    resumed(vlp, run.resolve(), cwd=elsewhere)
    assert list(elsewhere.iterdir()) == []
    assert (run / "results.json").exists()
    moved = tmp_path / "moved"
    run.rename(moved)
    (moved / "results.json").unlink()
    resumed(vlp, moved)
    assert read_frozen_config(moved / "config.yaml").folder == str(moved)
    assert (moved / "results.json").exists()
    assert not run.exists()


def test_that_a_run_was_finished_is_told(vlp: Any, run: Path) -> None:
    assert "was finished" not in resumed(vlp, run)
    assert f"{run}: this run was finished" in resumed(vlp, run)


def test_a_secret_stays_out_of_the_config(vlp: Any, conf: Path) -> None:
    (conf / "logger").mkdir()
    (conf / "logger" / "cloud.yaml").write_text("# @package logger\napi_key: ${oc.env:CLOUD_TOKEN}\n")
    assert vlp("train", "+logger=cloud", CLOUD_TOKEN="from-env-1234").returncode == 0
    (folder,) = (vlp.folder / "runs" / "scenes").iterdir()
    resumed(vlp, folder, "logger.api_key=literal-5678")
    assert "5678" not in "".join(file.read_text() for file in folder.iterdir() if file.is_file())


def test_texts_that_are_stored_hide_secrets_within_nodes() -> None:
    assert redact_overrides(["loggers.wandb={api_key: abcdef99, project: mine}", "token=abcdef98", "seed=1"]) == [
        "loggers.wandb={api_key: <hidden>, project: mine}", "token=<hidden>", "seed=1",
    ]  # fmt: skip
    assert redact_overrides(["loggers.wandb.api_key=${oc.env:MY_KEY}"]) == ["loggers.wandb.api_key=${oc.env:MY_KEY}"]


def test_equal_runs_have_the_same_parts() -> None:
    one: dict[str, Any] = {
        "seed": 0,
        "objectives": {"itc": {"weight": 1}},
        "checkpoint": None,
        "trainer": {"devices": 1},
    }
    assert same_settings(one, {**one, "trainer": {"devices": 2}, "resume": "x"})
    here, there = ({**one, "data": {"sources": {"coco": {"root": root}}}} for root in ("here", "there"))
    assert not same_settings(here, there), "in another folder may be other data"
    assert changes(here, there) == [], "and the same data may be moved: what they hold is compared when they are read"
    for other in ({"seed": 1}, {"objectives": {**one["objectives"], "mlm": {"weight": 1}}}, {"checkpoint": "w.pt"}):
        assert not same_settings(one, {**one, **other})
        assert not same_settings({**one, **other}, one)
    scenes = {"names": "words", "boxes": False, "held_out_pairs": [], "pairs": "all"}
    later = {"lora": None, "trainer": {"devices": 1, "sync_batchnorm": True}, "data": {"sources": {"scenes": scenes}}}
    assert same_settings(one, {**one, **later}), "a run of an earlier version lacks what has no effect"
    for other in ({"lora": {"rank": 8}}, {"data": {**scenes, "boxes": True}}, {"data": {**scenes, "pairs": "seen"}}):
        assert not same_settings(one, {**one, **other})
    assert changes({"trainer": {"clip": 1.0}}, {"trainer": {"clip": None}}) == ["trainer.clip: 1.0 became None"]
    assert changes({"model": {"size": 300}}, {"model": {"size": None}}) == []


def test_the_changed_key_of_a_list_of_parts_is_named() -> None:
    towers = [{"name": "resnet18", "image_size": 64}, {"name": "resnet34", "image_size": 64}]
    then = {"model": {"vision": {"towers": towers, "sizes": [1, 2]}}, "data": {"parts": [{"root": "here", "size": 3}]}}
    now = {
        "model": {"vision": {"towers": [towers[0], towers[1] | {"image_size": 32}], "sizes": [1, 3]}},
        "data": {"parts": [{"root": "there", "size": 3}]},
    }
    assert changes(then, now) == [
        "model.vision.towers[1].image_size: 64 became 32",
        "model.vision.sizes: [1, 2] became [1, 3]",
    ]
    fewer = {"model": {"vision": {"towers": towers[:1]}}}
    assert changes(then, fewer) == ["model.vision.towers: 2 parts became 1 parts"]
    groups = [{"pattern": "a", "lr": 1.0}], [{"pattern": "a", "lr": 2.0}]
    assert changes({"optimizer": {"groups": groups[0]}}, {"optimizer": {"groups": groups[1]}}) == [
        "optimizer.groups[0].lr: 1.0 became 2.0"
    ]
    assert not same_settings({"optimizer": {"groups": groups[0]}}, {"optimizer": {"groups": groups[1]}})
