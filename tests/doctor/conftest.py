"""A doctor's visit as it is typed, in a process of its own, on a few generated pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TINY = (
    "data.images.train=48", "data.images.val=8", "data.images.test=8", "data.batch_size=16", "data.num_workers=0",
    "tokenizer.size=400", "model.vision.channels=4", "model.text.width=32", "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
)  # fmt: skip
Visit = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    """Exit code and findings by check id; of several the worst."""

    def typed(
        *overrides: str, tiny: bool = True, limit: str = "", seconds: str = "60", **environment: str
    ) -> tuple[int, dict[str, dict[str, str]]]:
        command = [
            sys.executable,
            "-m",
            "vlp.cli",
            "doctor",
            "--json",
            "--seconds",
            seconds,
            f"runs={tmp_path / 'runs'}",
        ]
        command += [*(TINY if tiny else ()), *overrides]
        if tiny and not any(word.startswith("data.root=") for word in overrides):
            command.append(f"data.root={tmp_path / 'scenes'}")
        shell = ["bash", "-c", f'{limit}; exec "$@"', "bash"] if limit else []
        path = os.pathsep.join(filter(None, [environment.pop("PYTHONPATH", ""), str(ROOT)]))
        settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "WANDB_MODE": "offline"} | environment
        done = subprocess.run(
            [*shell, *command], env=settings, capture_output=True, text=True, timeout=200, cwd=tmp_path
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        found: dict[str, dict[str, str]] = {}
        order = ("fine", "warning", "error")
        for finding in json.loads(done.stdout)["findings"]:
            before = found.get(finding["check"], {"severity": "fine"})
            if order.index(finding["severity"]) >= order.index(before["severity"]):
                found[finding["check"]] = finding
        return done.returncode, found

    return typed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("a file system can only be mounted by root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)
