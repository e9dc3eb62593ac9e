"""How Detectron2 prepares images: read from its configs, or known of its published weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from vlp.system.errors import UserError


@dataclass(frozen=True)
class Preparation:
    """How images were prepared: format "BGR" or "RGB"; mean, std of its channels in [0, 255]; where a bottleneck strides."""

    format: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride_in_1x1: bool

    def normalization(self) -> dict[str, list[float]]:
        """Of RGB in [0, 1]."""
        order = -1 if self.format == "BGR" else 1
        return {
            "mean": [value / 255 for value in self.mean[::order]],
            "std": [value / 255 for value in self.std[::order]],
        }


_BGR_MEAN = (103.53, 116.28, 123.675)
MSRA = Preparation("BGR", _BGR_MEAN, (1.0, 1.0, 1.0), True)  # R-50 and R-101, and Detectron2's defaults
FAIR_RESNEXT = Preparation("BGR", _BGR_MEAN, (57.375, 57.12, 58.395), False)
TORCHVISION = Preparation("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False)


def read_preparation(file: Path) -> Preparation | None:
    """From a config of Detectron2 (yacs or LazyConfig, written as YAML), with its own defaults; None for another file.  Raises
    UserError."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    content = content if isinstance(content, dict) else {}
    lazy, yacs = content.get("model") or {}, content.get("MODEL") or {}
    if "pixel_mean" not in lazy and not {"MODEL", "_BASE_"} & content.keys():
        return None
    base = file.parent / str(content.get("_BASE_"))
    inherited = (read_preparation(base) if base.is_file() else None) or MSRA
    stages = ((lazy.get("backbone") or {}).get("bottom_up") or {}).get("stages") or {}
    values = {
        "format": lazy.get("input_format") or (content.get("INPUT") or {}).get("FORMAT"),
        "mean": lazy.get("pixel_mean") or yacs.get("PIXEL_MEAN"),
        "std": lazy.get("pixel_std") or yacs.get("PIXEL_STD"),
        "stride_in_1x1": stages.get("stride_in_1x1", (yacs.get("RESNETS") or {}).get("STRIDE_IN_1X1")),
    }
    given: dict[str, Any] = {
        key: tuple(map(float, value)) if isinstance(value, list) else value
        for key, value in values.items()
        if value is not None
    }
    found = replace(inherited, **given)
    if found.format not in ("BGR", "RGB") or len(found.mean) != 3 or len(found.std) != 3:
        raise UserError(
            f"{file}: its images have the format {found.format} with {len(found.mean)} means: vlp reads BGR and RGB"
        )
    return found
