from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from vlp.metrics.coco import encode_mask
from vlp.training.loggers import wandb_image


def test_boxes_and_masks_are_wandbs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pixels, found and true ones apart, so that its page can switch them; the most probable thing's mask is on top."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    PIL.Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    masks = np.zeros((2, 6, 8), dtype=bool)
    masks[0, :3], masks[1, 2:] = True, True
    things = [
        {"box": [0.0, 0.0, 8.0, 3.0], "label": "ring", "score": 0.9, "mask": encode_mask(masks[0])},
        {"box": [0.0, 2.0, 8.0, 6.0], "label": "circle", "score": 0.5, "mask": encode_mask(masks[1])},
    ]
    truth = [{"box": [0, 0, 8, 3], "label": "ring"}]
    example = {"image": str(tmp_path / "a.png"), "things": things, "truth": truth, "names": ["circle", "ring"]}
    image = wandb_image(example)
    boxes = {name: group._val for name, group in image._boxes.items()}
    first = boxes["found"][0]
    assert first["position"] == {"minX": 0.0, "maxX": 8.0, "minY": 0.0, "maxY": 3.0}
    assert (first["domain"], first["class_id"], first["box_caption"]) == ("pixel", 2, "ring 0.90")
    assert [box["class_id"] for box in boxes["truth"]] == [2]
    drawn = np.asarray(PIL.Image.open(image._masks["found"]._path))
    assert drawn[:, 0].tolist() == [2, 2, 2, 1, 1, 1]
    without = {**example, "things": [{key: one[key] for key in ("box", "label", "score")} for one in things]}
    assert not wandb_image(without)._masks
