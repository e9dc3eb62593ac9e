"""A small index of one-coloured photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.deploy.serving.fake_engine import photo
from vlp.deploy.index.build import index_photos
from vlp.deploy.index.crawl import check_roots
from vlp.deploy.index.store import StoreManifest
from vlp.deploy.index.writer import open_writer

COLORS = ("red", "green", "blue", "white", "black", "orange", "purple")


def make_index(folder: Path, engine: Any) -> Path:
    """folder/photos and the index of them, folder/index."""
    (folder / "photos").mkdir()
    for color in COLORS:
        (folder / "photos" / f"{color}.png").write_bytes(photo(color, kind="PNG"))
    manifest = StoreManifest(fingerprint=engine.fingerprint, width=engine.width)
    with open_writer(folder / "index", manifest) as writer:
        index_photos(writer, engine, check_roots([folder / "photos"]), show=False)
    return folder / "index"
