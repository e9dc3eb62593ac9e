"""A secret that a run uses is in none of its files and in nothing that it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from vlp.system import secrets

pytestmark = pytest.mark.slow  # real processes, several minutes in total

ROOT = Path(__file__).resolve().parents[2]
PLANTED = "5ec1e7f0a9b84c6d93e2" * 2  # of the length of a key of W&B
TINY = (
    "data.images.train=32", "data.images.val=8", "data.images.test=8", "data.batch_size=16", "data.num_workers=0",
    "tokenizer.size=400", "model.vision.channels=4", "model.text.width=32", "trainer.max_epochs=1",
    "callbacks=[checkpoint,pictures]", "trainer.log_every_n_steps=1",
)  # fmt: skip


def train(
    folder: Path, *overrides: str, words: Sequence[str] = TINY, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", f"runs={folder / 'runs'}", *words, *overrides]
    if not any(word.startswith("data.root=") for word in overrides):
        command.append(f"data.root={folder / 'scenes'}")
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", **environment}
    return subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=250)


def files_with_secret(folder: Path, secret: str) -> list[str]:
    """Files below `folder` that contain the secret; checkpoints are uncompressed zip files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 2
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("literal", [False, True], ids=["from the environment", "on the command line"])
def test_a_key_is_nowhere_in_a_run(tmp_path: Path, literal: bool) -> None:
    value = PLANTED if literal else "${oc.env:SERVICE_TOKEN}"
    done = train(tmp_path, f"loggers.wandb.api_key={value}", **({} if literal else {"SERVICE_TOKEN": PLANTED}))
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs" / "scenes").iterdir()
    for name in ("config.yaml", "metrics.jsonl", "results.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (run / name).is_file()
    assert list(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert "api_key: ${oc.env:" in (run / "config.yaml").read_text()
    assert files_with_secret(tmp_path, PLANTED) == []
    assert PLANTED not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_secret_in_a_mistake_is_hidden(tmp_path: Path) -> None:
    """The data's root is a secret and does not exist, so the error message and the traceback would name it."""
    words = [word for word in TINY if not word.startswith("data.images")]
    root = "data.root=${oc.env:STORAGE_KEY}"
    done = train(
        tmp_path,
        "data=coco",
        "transform=photos",
        root,
        words=words,
        STORAGE_KEY=f"/nowhere/{PLANTED}",
        HYDRA_FULL_ERROR="1",
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "<hidden>" in done.stderr
    assert "Traceback" in done.stderr
    assert PLANTED not in done.stdout + done.stderr
    assert not any(path.is_file() for path in tmp_path.rglob("*"))  # no folder of a run that never began


@pytest.mark.parametrize("key", ["loggers.wandb.token", "+loggers.wandb.token", "data.password"])
def test_a_mistyped_place_of_a_secret_does_not_print_it(tmp_path: Path, key: str) -> None:
    done = train(tmp_path, f"{key}={PLANTED}")
    assert done.returncode == 2
    assert key.rpartition(".")[2] in done.stderr
    assert PLANTED not in done.stdout + done.stderr


CRASH = """
import sys, threading
from vlp.training.lifecycle.entry import run_entry_point

def crash(config):
    if len(sys.argv) > 2:
        thread = threading.Thread(target=crash_here)
        thread.start()
        thread.join()
    else:
        crash_here()

def crash_here():
    raise KeyError("no such bucket: s3://user:{secret}@host")

run_entry_point("train", crash)
"""


@pytest.mark.parametrize("thread", [False, True])
def test_a_secret_in_the_traceback_of_a_defect_is_hidden(tmp_path: Path, thread: bool) -> None:
    (tmp_path / "config.yaml").write_text("password: ${oc.env:STORAGE}\n")
    (tmp_path / "crash.py").write_text(CRASH.replace("{secret}", PLANTED))
    command = [
        sys.executable,
        str(tmp_path / "crash.py"),
        str(tmp_path / "config.yaml"),
        *(["thread"] if thread else []),
    ]
    own = {**os.environ, "PYTHONPATH": str(ROOT), "STORAGE": PLANTED}
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=60)
    assert done.returncode == (0 if thread else 1)
    assert "KeyError: 'no such bucket: s3://user:<hidden>@host'" in done.stderr
    assert "in crash_here" in done.stderr
    assert PLANTED not in done.stdout + done.stderr


def test_values_are_those_of_secret_names_and_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "abcdef-1")
    monkeypatch.setenv("PLAIN", "abcdef-1-and-more")
    monkeypatch.setenv("OTHER", "not a secret")
    monkeypatch.setenv("USE_TOKEN", "1")
    file = tmp_path / "config.yaml"
    file.write_text("x: ${oc.env:PLAIN}\n")
    values = secrets.known_secrets(file)
    assert {"abcdef-1", "abcdef-1-and-more"} <= set(values)
    assert not {"not a secret", "1"} & set(values)
    assert secrets.redact("a abcdef-1-and-more b abcdef-1", values) == "a <hidden> b <hidden>"
    assert secrets.redact("'C:\\\\te\\\\n'", ["C:\\te\\n"]) == "'<hidden>'"
