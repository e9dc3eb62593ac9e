from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from vlp.metrics.coco import encode_mask
from vlp.report.detections import plot_detections


def _example(path: Path, *, mask: bool) -> dict[str, Any]:
    PIL.Image.new("RGB", (80, 50), "black").save(path)
    thing: dict[str, Any] = {"box": [-5.0, 5.0, 30.0, 20.0], "label": "ring $x$", "score": 0.9}
    if mask:
        pixels = np.zeros((50, 80), dtype=bool)
        pixels[5:20, :30] = True
        thing |= {"mask": encode_mask(pixels)}
    truth = [{"box": [0, 5, 30, 20], "label": "ring $x$"}]
    return {"image": str(path), "things": [thing], "truth": truth, "names": ["circle", "ring $x$"]}


def test_boxes_names_and_masks_are_drawn(tmp_path: Path) -> None:
    """The class's colour is that of its place among the names; a mask tints what it covers."""
    pictures = {}
    for mask in (False, True):
        example = _example(tmp_path / "a.png", mask=mask)
        plot_detections([example] * 5, tmp_path / "plots/out.png")
        pictures[mask] = np.asarray(PIL.Image.open(tmp_path / "plots/out.png").convert("RGB")).astype(int)
    orange = np.abs(pictures[False] - np.array([0xE6, 0x87, 0x2E])).sum(-1) < 20
    assert orange.sum() > 500
    changed = (np.abs(pictures[True] - pictures[False]).sum(-1) > 30).sum()
    assert changed > 5 * 1000


def test_images_without_things(tmp_path: Path) -> None:
    example = _example(tmp_path / "a.png", mask=False) | {"things": [], "truth": []}
    plot_detections([example], tmp_path / "out.png")
    assert PIL.Image.open(tmp_path / "out.png").width > 100
