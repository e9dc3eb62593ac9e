"""Generated scenes that are not drawn yet: the doctor draws a part of them into its temporary folder, and scales what it
sees there. It writes nothing where the run would, and ten thousand pictures would take longer than its time."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlp.doctor.plan import batch_sizes, sources

TRAIN, EVALUATION = 512, 256  # images at most, but four batches


@dataclass(frozen=True)
class StandIn:
    """scale: by split, how many times as many images the run will have."""

    config: dict[str, Any]
    scale: dict[str, float]


def stand_in(config: dict[str, Any], folder: Path) -> StandIn:
    from vlp.data.scenes import scene_folder

    config, scale = copy.deepcopy(config), {"train": 1.0, "val": 1.0, "test": 1.0}
    enough = max(TRAIN, 4 * max(batch_sizes(config).values()))
    for node in sources(config).values():
        if not str(node.get("_target_")).startswith("vlp.data.scenes."):
            continue
        images = dict(node["images"])
        drawn = {"images": images, "size": node.get("size", 64), "scene_seed": node.get("scene_seed", 0)}
        if scene_folder(Path(node["root"]).expanduser(), **drawn).exists():
            continue
        node["root"] = str(folder / "scenes")
        node["images"] = {
            split: min(number, enough if split == "train" else EVALUATION) for split, number in images.items()
        }
        scale |= {split: images[split] / number for split, number in node["images"].items() if number}
    return StandIn(config, scale)
