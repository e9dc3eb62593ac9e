"""A run's checkpoint is evaluated on the run's own data and tasks, unless others are chosen."""

from pathlib import Path

import pytest

from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.folder import freeze
from vlp.launch.runs.provenance import parts_of_checkpoint


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of 100 scenes that was started in `there`."""
    for name in ("there/scenes", "here"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "there")
    train = Composer(conf=conf_folder(), config_name="train")
    config = train.compose(["data.images.train=100", "data.root=scenes", "task=[retrieval,zero_shot]"])
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.ckpt").touch()
    freeze(folder, resolve_config(config, folder), "train")
    monkeypatch.chdir(tmp_path / "here")
    return folder


def composed_config(*lines: str) -> dict[str, object]:
    config = Composer(conf=conf_folder(), config_name="evaluate", of_checkpoint=parts_of_checkpoint).compose(
        list(lines)
    )
    return {
        "images": config.data.get("images"),
        "root": config.data.root,
        "tasks": set(config.tasks),
        "data": config.data,
    }


def test_the_runs_data_and_not_what_has_its_name_here(run: Path) -> None:
    (Path.cwd() / "scenes").mkdir()
    assert composed_config(f"checkpoint={run}")["root"] == str(run.parent / "there" / "scenes")


@pytest.mark.parametrize("path", [".", "checkpoints/best.ckpt"])
def test_data_and_tasks_are_the_runs(run: Path, path: str) -> None:
    config = composed_config(f"checkpoint={run / path}", "data.eval_batch_size=7")
    assert config["images"]["train"] == 100  # type: ignore[index]
    assert config["tasks"] == {"retrieval", "zero_shot"}
    assert config["root"] == str(run.parent / "there" / "scenes"), "seen from where the run was started"
    assert config["data"].eval_batch_size == 7  # type: ignore[attr-defined]


def test_others_may_be_chosen(run: Path) -> None:
    assert composed_config(f"checkpoint={run}", "task=[compositionality]")["tasks"] == {"compositionality"}
    config = composed_config(f"checkpoint={run}", "data=scenes")
    assert config["images"]["train"] == 10000
    assert config["tasks"] == {"retrieval", "zero_shot"}


def test_a_file_elsewhere_is_measured_on_what_the_config_says(run: Path) -> None:
    moved = run.parent / "moved.ckpt"
    moved.touch()
    assert composed_config(f"checkpoint={moved}")["images"]["train"] == 10000  # type: ignore[index]


def test_a_config_that_is_none_is_named(run: Path) -> None:
    for text in ("[1, 2]", "a: [", "words"):
        (run / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=rf"{run}/config.yaml: not"):
            composed_config(f"checkpoint={run}")
