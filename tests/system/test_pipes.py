"""`vlp … | head`: no traceback, and a training goes on without its reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_without_reader(*command: str, cwd: Path) -> tuple[int, str]:
    """Exit code and standard error of a process whose output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=cwd, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True,
            timeout=120, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"], ["--help"], ["scenes", "--help"], ["compare", "."], ["compare", ".", "--json"],
        ["data", "download", "vqa_v2", "--list"], ["train", "--cfg", "job"], ["train", "--help"], ["evaluate", "--help"],
    ],
)  # fmt: skip
def test_a_command_ends_quietly_with_its_reader(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("seed: 1\n")
    code, printed = run_without_reader("-m", "vlp.cli", *arguments, cwd=tmp_path)
    assert printed == ""
    assert code == (
        0 if arguments[-1] == "--help" and arguments[0] not in ("train", "evaluate") else 141
    )  # argparse's own way


def test_a_mistake_is_told_as_ever(tmp_path: Path) -> None:
    code, printed = run_without_reader("-m", "vlp.cli", "ls", "modles", cwd=tmp_path)
    assert code == 2
    assert "did you mean models" in printed


def test_output_goes_on_without_its_reader(tmp_path: Path) -> None:
    program = """
import sys
from vlp.system.pipes import OutputWithoutReader
sys.stdout = OutputWithoutReader(sys.stdout)
for step in range(3):
    print("step", step, flush=True)
print("finished", sys.stdout.isatty(), file=sys.stderr)
"""
    assert run_without_reader("-c", program, cwd=tmp_path) == (0, "finished False\n")
