"""Every tower, fusion and decoder of the tree by torch.export, strict and not, and by ONNX."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.export import parts
from tests.deploy.export.exporting import MODES

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[3]


def differences(mode: str, *names: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.deploy.export.exporting", mode, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_parts_that_broke_are_exported() -> None:
    """Lengths, masks and packing; towers that pad; ViLT's grids."""
    for name, difference in differences("not strict,strict", "bert", "siglip_text", "vilt_patches").items():
        assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", MODES)
def test_every_part_is_exported(mode: str) -> None:
    for name, difference in differences(mode, *parts.NAMES).items():
        assert difference <= 1e-5, name
