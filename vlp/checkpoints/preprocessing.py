"""A Hugging Face folder's `preprocessor_config.json` ↔ our transform and the mean and deviation of our tower.

transformers itself reads the file, as it knows the defaults and the old spellings of each kind. What our transforms
cannot do the same way (other resampling, no resizing, padding) gives no transform: pictures are then refused, pixels not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers

from vlp.checkpoints.checkpoint import eval_transform
from vlp.system.errors import UserError
from vlp.system.json_files import read_json

FILE = "preprocessor_config.json"
_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclass(frozen=True)
class Preprocessing:
    """transform: a config's node; None = one that vlp has not.  normalization: `mean` and `std` of pixels in [0, 1], as far
    as the file gives them."""

    transform: dict[str, Any] | None
    normalization: dict[str, list[float]] = field(default_factory=dict)


def read_preprocessing(folder: Path, image_size: int) -> Preprocessing | None:
    """None where the folder has no such file.  image_size: the model's, where the file tells none.  Raises UserError for a
    file that transformers cannot read."""
    if not (folder / FILE).is_file():
        return None
    file_settings = read_json(folder / FILE)
    try:
        processor: Any = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        if {"image_processor_type", "feature_extractor_type"} & file_settings.keys():
            raise UserError(f"{folder / FILE}: transformers cannot read it: {' '.join(str(error).split())}") from error
        return Preprocessing(None, _normalization(file_settings))
    values = {key: value for key, value in vars(processor).items() if value is not None}
    for name in {"size", "crop_size"} & values.keys() - file_settings.keys():
        values[name] = dict.fromkeys(_side_lengths(values[name]), image_size)
    return Preprocessing(_transform(values), _normalization(values))


def add_preprocessing(config: dict[str, Any], folder: Path) -> None:
    """Puts what the folder tells, if anything, into a checkpoint's config."""
    vision = config["model"]["vision"]
    own = read_preprocessing(folder, vision["image_size"])
    if own is not None:
        config["transform"] = own.transform
        vision |= own.normalization


def _normalization(file_settings: dict[str, Any]) -> dict[str, list[float]]:
    """Pixels in [0, 255] times `rescale_factor`, minus `image_mean`, by `image_std`; in terms of pixels in [0, 1]."""
    factor = 255 * file_settings.get("rescale_factor", 1 / 255) if file_settings.get("do_rescale", True) else 255.0
    if not file_settings.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    elif file_settings.get("image_mean") is None or file_settings.get("image_std") is None:
        return {}
    else:
        mean, std = list(file_settings["image_mean"]), list(file_settings["image_std"])
    if abs(factor - 1) < 1e-6:  # 1/255 is written in several lengths
        return {"mean": mean, "std": std}
    return {"mean": [value / factor for value in mean], "std": [value / factor for value in std]}


def _transform(file_settings: dict[str, Any]) -> dict[str, Any] | None:
    size, crop = (_side_lengths(file_settings.get(name)) for name in ("size", "crop_size"))
    interpolation = _RESAMPLING.get(int(file_settings.get("resample", 3)))
    pads = file_settings.get("do_pad") and "size_divisor" not in file_settings
    if not file_settings.get("do_resize", True) or interpolation is None or pads:
        return None
    other = {} if interpolation == "bicubic" else {"interpolation": interpolation}
    shorter = size.get("shortest_edge")
    if "size_divisor" in file_settings:  # ViLT
        if shorter is None or other:
            return None
        multiple = {} if file_settings["size_divisor"] == 32 else {"multiple": file_settings["size_divisor"]}
        return {"eval": {"_target_": "vlp.data.transforms.MinMaxTransform", "image_size": shorter, **multiple}}
    square = size.get("height") if size.get("height") == size.get("width") else None
    cropped = crop.get("height") if crop.get("height") == crop.get("width") else None
    if square is not None and (not file_settings.get("do_center_crop") or cropped == square):
        return eval_transform(square, "squash", **other)
    if (
        shorter is None
        or cropped is None
        or not file_settings.get("do_center_crop")
        or "longest_edge" in size
        or cropped > shorter
    ):
        return None
    return eval_transform(cropped, "clip", **({} if cropped == shorter else {"resize": shorter}), **other)


def _side_lengths(size: Any) -> dict[str, int]:
    """Of a dict, of transformers' SizeDict, or of a number for both sides."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {key: value for key, value in (size if isinstance(size, dict) else vars(size)).items() if value is not None}


def write_preprocessing(folder: Path, kind: str, config: dict[str, Any]) -> None:
    """kind: of transformers' image processors.  config: a checkpoint's.  Nothing is written where it tells no transform."""
    node = (config.get("transform") or {}).get("eval")
    vision = config["model"]["vision"]
    normalize = {f"image_{key}": vision[key] for key in ("mean", "std") if key in vision}
    file_settings: dict[str, Any] = {
        "image_processor_type": kind,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
    }
    numbers = {name: number for number, name in _RESAMPLING.items()}
    if node and node["_target_"].endswith(".MinMaxTransform"):
        file_settings |= {"size": {"shortest_edge": node["image_size"]}, "size_divisor": node.get("multiple", 32)}
    elif node and node["_target_"].endswith(".EvalTransform"):
        square = {"height": node["image_size"], "width": node["image_size"]}
        shorter = {"shortest_edge": node.get("resize") or node["image_size"]}
        file_settings["resample"] = numbers[node.get("interpolation", "bicubic")]
        if node.get("mode", "clip") == "squash":
            file_settings |= {"size": square, "do_center_crop": False}
        else:
            file_settings |= {"size": shorter, "do_center_crop": True, "crop_size": square}
    elif not normalize:
        return
    (folder / FILE).write_text(json.dumps(file_settings | normalize, indent=2) + "\n")
