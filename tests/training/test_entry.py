"""What a user sees when the data are wrong: one sentence, and the traceback in the run folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from vlp.training import entry


def start(monkeypatch: pytest.MonkeyPatch, folder: Path, error: BaseException, raiser: str) -> None:
    """Enters a function whose exception is raised by code of the file `raiser`."""
    code = compile("def fail(config):\n    raise error", raiser, "exec")
    namespace = {"error": error}
    exec(code, namespace)
    monkeypatch.setattr("sys.argv", ["run", str(folder / "config.yaml")])
    entry.enter("train", namespace["fail"])  # type: ignore[arg-type]


def test_what_vlp_raises_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(
            monkeypatch, tmp_path, FileNotFoundError("3 images are not on disk"), str(entry.PACKAGE / "data" / "x.py")
        )
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed == f"train: 3 images are not on disk (traceback: {tmp_path / 'error.txt'})\n"
    assert "Traceback" in (tmp_path / "error.txt").read_text()


def test_a_device_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, tmp_path, MisconfigurationException("No supported gpu backend found!"), "/lib/lightning.py")
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told == f"train: No supported gpu backend found! (traceback: {tmp_path / 'error.txt'})\n"


@pytest.mark.parametrize(
    ("error", "raiser"),
    [(ValueError("from a library"), "/lib/torch/nn.py"), (KeyError("a defect"), str(entry.PACKAGE / "data" / "x.py"))],
)
def test_defects_keep_their_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, raiser: str
) -> None:
    with pytest.raises(type(error)):
        start(monkeypatch, tmp_path, error, raiser)
    assert not (tmp_path / "error.txt").exists()
