"""What a user sees when the data are wrong: one sentence, and the traceback in the run folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from vlp.data.loader import DataWorkerLost
from vlp.launch.config.errors import ConfigError
from vlp.system.errors import UserError
from vlp.training.lifecycle import entry
from vlp.training.lifecycle.nonfinite import NotFinite


def start(monkeypatch: pytest.MonkeyPatch, folder: Path, error: BaseException) -> None:
    """Enters a function that raises the error."""

    def fail(config: Path) -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["run", str(folder / "config.yaml")])
    entry.run_entry_point("train", fail)


@pytest.mark.parametrize(
    ("kind", "code"), [(UserError, 2), (ConfigError, 2), (FileNotFoundError, 2), (NotFinite, 4), (DataWorkerLost, 1)]
)
def test_an_error_for_the_user_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: type[Exception],
    code: int,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, tmp_path, kind("3 images are not on disk"))
    assert stopped.value.code == code
    printed = capsys.readouterr().err
    assert printed == f"train: 3 images are not on disk (traceback: {tmp_path / 'error.txt'})\n"
    assert "Traceback" in (tmp_path / "error.txt").read_text()


@pytest.mark.parametrize(("code", "kind"), [(2, UserError), (4, NotFinite), (1, DataWorkerLost)])
@pytest.mark.parametrize("began", [False, True])
def test_a_run_that_never_began_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    code: int,
    kind: type[Exception],
    began: bool,
) -> None:
    """Of a mistake, where this command created the folder."""
    folder = tmp_path / "runs" / "name" / "stamp"
    folder.mkdir(parents=True)
    monkeypatch.setenv("VLP_NEW_RUN_FOLDER", str(folder))
    monkeypatch.setattr(entry.SIGNALS, "began", began)
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, folder, kind("3 images are not on disk"))
    assert stopped.value.code == code
    removed = code == 2 and not began
    assert folder.exists() is folder.parent.exists() is not removed
    end = "" if removed else f" (traceback: {folder / 'error.txt'})"
    assert capsys.readouterr().err == f"train: 3 images are not on disk{end}\n"


def test_a_folder_that_was_there_before_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLP_NEW_RUN_FOLDER", str(tmp_path / "of another command"))
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path, UserError("a mistake"))
    assert (tmp_path / "error.txt").exists()


def test_a_device_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, tmp_path, MisconfigurationException("No supported gpu backend found!"))
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told == f"train: No supported gpu backend found! (traceback: {tmp_path / 'error.txt'})\n"


@pytest.mark.parametrize(
    "error",
    [ValueError("from a library"), KeyError("a defect"), ZeroDivisionError("a defect"), ConnectionResetError("lost")],
    ids=lambda error: type(error).__name__,
)
def test_defects_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        start(monkeypatch, tmp_path, error)
    assert not (tmp_path / "error.txt").exists()


def new_run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "name" / "stamp"
    folder.mkdir(parents=True)
    monkeypatch.setenv("VLP_NEW_RUN_FOLDER", str(folder))
    monkeypatch.setattr(entry.SIGNALS, "began", False)  # by another test of this process
    return folder


@pytest.mark.parametrize("error", [UserError("no such image"), MisconfigurationException("no such device")])
def test_no_folder_of_a_run_that_never_began(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    folder = new_run_folder(monkeypatch, tmp_path)
    with pytest.raises(SystemExit, match="2"):
        start(monkeypatch, folder, error)
    assert not list(tmp_path.iterdir())
    assert "(traceback: " not in capsys.readouterr().err


@pytest.mark.parametrize("case", ["unreadable", "another", "lost"])
def test_what_began_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str) -> None:
    folder = new_run_folder(monkeypatch, tmp_path)
    error = DataWorkerLost("killed") if case == "lost" else UserError("no such image")
    if case == "another":  # a resumed run, or a job of a sweep
        monkeypatch.delenv("VLP_NEW_RUN_FOLDER")
    elif case != "lost":
        (folder / "data_issues.jsonl").write_text("{}")
    with pytest.raises(SystemExit):
        start(monkeypatch, folder, error)
    assert (folder / "error.txt").is_file()
