"""Runs that learn from a teacher: resumed bit by bit, equal on two processes; impossible ones are refused before the first step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import vlp
from tests.models.test_teacher import make_teacher
from tests.runs import (
    SMALL_CLIP,
    assert_equal,
    assert_same_training,
    load_checkpoint,
    make_run_folder,
    train_here,
    train_in_float64,
)
from vlp.checkpoints.place import weights_sha256
from vlp.launch.config.errors import ConfigError
from vlp.system.errors import UserError
from vlp.training.callbacks.teachers import Teachers

SMALL = (*(word for word in SMALL_CLIP if not word.startswith("trainer.max_epochs")), "data.images.train=32")
STUDENT = (
    *SMALL, "trainer.max_epochs=2", "model.projection.width=6", "tokenizer.size=290", "teacher_folder=null",
    "objective=[itc,distill_feature,distill_affinity]",
)  # fmt: skip


class Taught(NamedTuple):
    teacher: Path
    scenes: Path


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    """A teacher of another width, picture size and vocabulary than its students."""
    folder = tmp_path_factory.mktemp("taught")
    size = ("model.vision.image_size=32", "transform.train.image_size=32", "transform.eval.image_size=32")
    teacher = make_run_folder(folder / "teacher", *SMALL, "trainer.max_epochs=1", *size, data=folder / "scenes")
    train_here(teacher)
    return Taught(teacher, folder / "scenes")


def student(folder: Path, taught: Taught, *overrides: str) -> Path:
    return make_run_folder(folder, *STUDENT, f"teachers={{large: {taught.teacher}}}", *overrides, data=taught.scenes)


def test_a_resumed_run_is_the_straight_one_and_its_checkpoint_has_no_teacher(
    taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, parts = (
        student(tmp_path / "one", taught),
        student(tmp_path / "two", taught, f"teacher_folder={tmp_path}/kept"),
    )
    results = train_here(straight)
    monkeypatch.setenv("VLP_FAULTS", "site=before_backward,step=5,kind=raise")
    with pytest.raises(RuntimeError):
        train_here(parts)
    monkeypatch.delenv("VLP_FAULTS")
    train_here(parts)
    last = load_checkpoint(straight)
    for name in ("state_dict", "optimizer_states"):
        assert_equal(last[name], load_checkpoint(parts)[name], name)
    heads = {name for name in last["state_dict"] if name.startswith("objectives.")}
    assert heads == {f"objectives.distill_feature.maps.large_{side}.weight" for side in ("image", "text")}
    digest = weights_sha256(taught.teacher)
    assert last["teachers"] == {"large": {"path": str(taught.teacher), "sha256": digest}}
    assert results["steps"] == 8
    assert json.loads((straight / "results.json").read_text())["teachers"] == [f"large: {taught.teacher} {digest}"]
    predictor = vlp.load(straight)
    assert predictor.objectives["distill_feature"].maps["large_text"].weight.shape == (8, 6)
    assert predictor.embed_texts(["a red circle"]).shape == (1, 6)


@pytest.mark.slow
def test_two_processes_equal_one(taught: Taught, tmp_path: Path) -> None:
    """In float64, as tests/behaviour/test_two_processes.py."""
    states = []
    for processes in (1, 2):
        folder = student(
            tmp_path / str(processes), taught, "trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={processes}",
            "trainer.precision=32-true", "trainer.max_epochs=1",
        )  # fmt: skip
        states.append(train_in_float64(folder))
    assert_same_training(*states)


def test_another_teacher_is_refused_when_a_run_is_resumed(taught: Taught, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(taught.teacher, teacher)
    folder = student(tmp_path / "run", Taught(teacher, taught.scenes), "trainer.max_epochs=1")
    train_here(folder)
    for name in ("best", "last"):  # fine-tuned meanwhile
        file = teacher / "checkpoints" / f"{name}.ckpt"
        content = torch.load(file, weights_only=True)
        content["state_dict"]["model.projection.image.weight"] += 1
        torch.save(content, file)
    with pytest.raises(
        UserError, match=r"teachers.large=.* is not the checkpoint that this run began with.*force=true"
    ):
        train_here(folder)


def test_a_run_continues_with_the_teachers_that_it_began_with() -> None:
    callback = Teachers({name: make_teacher() for name in ("large", "other")}, folder=None)
    with pytest.raises(UserError, match="began with the teachers large and now has large, other"):
        callback.refuse_others({"large": {"path": "large.ckpt", "sha256": "0"}})
    callback.refuse_others({name: {"path": "elsewhere.ckpt", "sha256": "0"} for name in ("large", "other")})


def test_mistakes_are_found_before_the_first_step(taught: Taught, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teachers.large=nowhere.ckpt: there is no such file or folder"):
        make_run_folder(tmp_path / "a", *STUDENT, "teachers={large: nowhere.ckpt}", data=taught.scenes)
    with pytest.raises(ConfigError, match="other than momentum"):
        make_run_folder(tmp_path / "b", *STUDENT, f"teachers={{momentum: {taught.teacher}}}", data=taught.scenes)
    idle = student(tmp_path / "c", taught, "objective=[itc]")
    with pytest.raises(UserError, match=r"teachers.large is read by no objective"):
        train_here(idle)
    with pytest.raises(UserError, match="DistillFeature has no teacher: set"):
        train_here(make_run_folder(tmp_path / "d", *STUDENT, data=taught.scenes))
    alone = tmp_path / "vision.ckpt"
    content = torch.load(taught.teacher / "checkpoints" / "best.ckpt", weights_only=True)
    kept = {key: value for key, value in content["state_dict"].items() if key.startswith("model.vision.")}
    model = {"_target_": content["config"]["model"]["_target_"], "vision": content["config"]["model"]["vision"]}
    torch.save({**content, "state_dict": kept, "config": {**content["config"], "model": model}}, alone)
    with pytest.raises(UserError, match=r"teachers.large=.*vision.ckpt has no text tower to learn from"):
        train_here(student(tmp_path / "e", Taught(alone, taught.scenes)))
    assert not list((tmp_path / "e").glob("checkpoints/*.ckpt"))
