"""One small set, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlp.scenes.vcr.generate import generate_vcr

COUNTS = {"train": 60, "val": 10, "test": 30}


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated") / "questions"
    generate_vcr(out, images=COUNTS, seed=3)
    return out
