from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.index.fake_engine import FakeEngine
from vlp.deploy.index.build import IndexReport, index_photos
from vlp.deploy.index.store import StoreManifest
from vlp.deploy.index.writer import open_writer

Indexing = Callable[..., IndexReport]


def manifest_of(engine: FakeEngine) -> StoreManifest:
    return StoreManifest(fingerprint=engine.fingerprint, width=engine.width)


def build_index(
    store: Path, engine: FakeEngine, roots: Sequence[Path], *, again: bool = False, **options: Any
) -> IndexReport:
    with open_writer(store, manifest_of(engine), again=again) as writer:
        return index_photos(writer, engine, [str(root) for root in roots], show=False, **options)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the colours that `FakeEngine` knows; read by the runtime."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tests.deploy.index.colour_artifact import write_artifact

    return write_artifact(tmp_path_factory.mktemp("artifact") / "colours")
