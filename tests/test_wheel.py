"""The wheel that is built from a checkout, offline, holds what an installed vlp needs and nothing else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def tracked(*folders: str) -> set[str]:
    """Files that git knows, or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed, and tests fetch nothing")
    out = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(out)!r}))"
    command = [sys.executable, "-c", code]
    if importlib.util.find_spec("build") is not None:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("vlp-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_it_holds_every_module_and_every_yaml(names: set[str]) -> None:
    modules, conf = tracked("vlp"), {f"vlp/{name}" for name in tracked("conf")}
    assert len(modules) > 200
    assert len(conf) > 100
    assert sorted((modules | conf) - names) == [], "missing in the wheel"


def test_it_holds_no_study_no_test_and_no_data(names: set[str]) -> None:
    modules, conf = tracked("vlp"), {f"vlp/{name}" for name in tracked("conf")}
    assert sorted(names - modules - conf) == [], "in the wheel alone"
    assert not [name for name in names if "experiments" in name]
