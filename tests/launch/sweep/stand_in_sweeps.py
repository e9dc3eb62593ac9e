"""Sweeps with a stand-in for training: what the tests of this machine, Optuna, Slurm and Ray have in common."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[3]

PROGRAM = '''
import json, os, signal, sys, time
from pathlib import Path
from omegaconf import OmegaConf
file = Path(sys.argv[1])
folder = file.parent
config = OmegaConf.load(file)
behaviour = config.data.root
def record(name, text=""):
    with open(folder / name, "a") as stream:
        stream.write(f"{os.getpid()} {text}\\n")
def stop(number, frame):
    record("checkpoint")
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
record("starts", os.environ.get("CUDA_VISIBLE_DEVICES"))
record("begun", str(time.time()))
if behaviour == "crash_once" and config.seed == 1 and not (folder / "crashed").exists():
    (folder / "crashed").touch()
    sys.exit(7)
if behaviour == "mistake" and config.seed == 2:
    print("train: there is no such folder", file=sys.stderr)
    sys.exit(2)
if behaviour == "hold":
    while not (Path.cwd() / "go").exists():
        time.sleep(0.02)
if behaviour == "slow" and not (folder / "checkpoint").exists():
    time.sleep(60)
if behaviour == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
if behaviour == "brief":
    time.sleep(0.5)
if behaviour == "decline":  # each job is worse than the one before
    for validation in range(1, 4):
        with open(folder / "metrics.jsonl", "a") as stream:
            value = validation - 10 * int(folder.name.split("_")[0])
            stream.write(json.dumps({"step": validation, "val/scenes/retrieval/rsum": value}) + "\\n")
        time.sleep(1)
value = -(config.optimizer.lr - 0.01) ** 2 + config.seed
if behaviour == "unmeasured":
    (folder / "results.json").write_text(json.dumps({"val/scenes/retrieval/image_to_text_r1": value, "seconds": 1.0}))
    sys.exit(0)
(folder / "results.json").write_text(json.dumps({"val/scenes/retrieval/rsum": value, "test/x_r1": 50.0 + config.seed}))
record("ended", str(time.time()))
print("ran", file)
'''  # fmt: skip


@pytest.fixture
def launch(vlp: Any, conf: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`launch("train", "-m", …)` or `launch("resume", FOLDER)`: a process with PROGRAM in place of real training."""
    (tmp_path / "stand_in.py").write_text(PROGRAM)
    (tmp_path / "resume.py").write_text(
        "import sys\nfrom vlp.launch import process\nprocess.MODULES.update(train='stand_in', evaluate='stand_in')\n"
        "from vlp.cli import main\ncode = main(['sweep', 'resume', sys.argv[1]])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)\n"
    )
    (conf / "sweep").mkdir()
    for file in (REPOSITORY / "conf" / "sweep").glob("*.yaml"):
        (conf / "sweep" / file.name).write_text(file.read_text())
    train = (conf / "train.yaml").read_text()
    train = train.replace("sweep: {jobs: 1}", "monitor: val/scenes/retrieval/rsum\nloggers: {wandb: {group: null}}")
    (conf / "train.yaml").write_text(train.replace("- _self_", "- _self_\n  - sweep: grid"))

    def start(command: str, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        prepared = vlp.prepared(command, *arguments, **environment)
        if command == "resume":
            prepared["args"] = [sys.executable, str(tmp_path / "resume.py"), *arguments]
        return subprocess.Popen(**{**prepared, "cwd": cwd or prepared["cwd"]})

    start.folder = conf.parent  # type: ignore[attr-defined]
    return start


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    assert "Traceback" not in err, err
    return out, err


def sweep_folder(launch: Any) -> Path:
    (file,) = launch.folder.glob("runs/*/*/sweep.json")
    return file.parent


def jobs_of(launch: Any) -> list[dict[str, Any]]:
    return json.loads((sweep_folder(launch) / "sweep.json").read_text())["jobs"]


def lines(launch: Any, job: dict[str, Any], name: str) -> list[str]:
    file = launch.folder / job["folder"] / name
    return file.read_text().splitlines() if file.exists() else []


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
