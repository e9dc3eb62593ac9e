"""A Hugging Face folder's `preprocessor_config.json` ↔ our transform and the mean and deviation of our tower.

transformers itself reads the file, as it knows the defaults and the old spellings of each kind. What our transforms
cannot do the same way (no resizing, padding, a processor's own rules) gives no transform: pictures are then refused, pixels not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
import transformers

from vlp.checkpoints.checkpoint import eval_transform
from vlp.structures import height_and_width
from vlp.system.compat.transformers import own_image_steps
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object

FILE = "preprocessor_config.json"
LETTERBOX = "vlp.data.padded_transforms.Letterbox"
_RESAMPLING = {int(kind): kind.name.lower() for kind in PIL.Image.Resampling}
# steps that these processors override for what images alone do not use (segmentations), or that `_transform` knows
_SAME_STEPS = {
    "BeitImageProcessor": {"_preprocess"},
    "MobileNetV2ImageProcessor": {"_preprocess"},
    "LevitImageProcessor": {"resize"},
    "ConvNextImageProcessor": {"_preprocess", "resize"},
}


@dataclass(frozen=True)
class Preprocessing:
    """transform: a config's node; None = one that vlp has not.  normalization: `mean` and `std` of pixels in [0, 1], as far
    as the file gives them."""

    transform: dict[str, Any] | None
    normalization: dict[str, list[float]] = field(default_factory=dict)


def read_preprocessing(folder: Path, image_size: int | list[int]) -> Preprocessing | None:
    """None where the folder has no such file.  image_size: the model's, where the file tells none.  Raises UserError for a
    file that transformers cannot read."""
    if not (folder / FILE).is_file():
        return None
    file_settings = read_json_object(folder / FILE)
    try:
        processor: Any = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        if {"image_processor_type", "feature_extractor_type"} & file_settings.keys():
            raise UserError(f"{folder / FILE}: transformers cannot read it: {' '.join(str(error).split())}") from error
        return Preprocessing(None, _normalization(file_settings))
    values = {key: value for key, value in vars(processor).items() if value is not None}
    for name in {"size", "crop_size"} & values.keys() - file_settings.keys():
        height, width = height_and_width(image_size)
        sides = {"height": height, "width": width, "shortest_edge": min(height, width)}
        values[name] = {key: sides[key] for key in _side_lengths(values[name]) if key in sides}
    return Preprocessing(_transform(processor, values), _normalization(values))


def add_preprocessing(config: dict[str, Any], folder: Path) -> None:
    """Puts what the folder tells, if anything, into a checkpoint's config."""
    vision = config["model"].get("vision")
    own = None if vision is None else read_preprocessing(folder, vision["image_size"])
    if vision is not None and own is not None:
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


def _transform(processor: Any, file_settings: dict[str, Any]) -> dict[str, Any] | None:
    """processor: transformers'.  file_settings: its values, with the model's size where the file tells none."""
    size, crop = (_side_lengths(file_settings.get(name)) for name in ("size", "crop_size"))
    interpolation = _RESAMPLING.get(int(file_settings.get("resample", 3)))
    kind, shorter = type(processor).__name__.removesuffix("Pil"), size.get("shortest_edge")
    cropped = _square_or_sides(crop) if file_settings.get("do_center_crop") else None
    if not file_settings.get("do_resize", True) or interpolation is None or "longest_edge" in size:
        return None
    if kind == "ViltImageProcessor":
        if shorter is None or interpolation != "bicubic":
            return None
        multiple = {} if file_settings["size_divisor"] == 32 else {"multiple": file_settings["size_divisor"]}
        return {"eval": {"_target_": "vlp.data.transforms.MinMaxTransform", "image_size": shorter, **multiple}}
    if kind == "Owlv2ImageProcessor" and file_settings.get("do_pad") and cropped is None:
        side = _square_or_sides(size)
        return letterbox(side, interpolation=interpolation) if isinstance(side, int) else None
    if file_settings.get("do_pad") or not own_image_steps(processor) <= _SAME_STEPS.get(kind, set()):
        return None
    resized: Any = shorter if shorter is not None else _square_or_sides(size)
    if kind == "LevitImageProcessor" and shorter is not None:
        resized = int(256 / 224 * shorter)
    elif kind == "ConvNextImageProcessor" and shorter is not None:
        resized, cropped = int(shorter / file_settings["crop_pct"]) if shorter < 384 else shorter, shorter
        shorter = shorter if shorter < 384 else None
    other: dict[str, Any] = {} if interpolation == "bicubic" else {"interpolation": interpolation}
    if resized is None or (cropped is None and shorter is not None):
        return None
    if shorter is None and cropped in (None, resized):
        return hugging_face_transform(resized, "squash", **other)
    assert cropped is not None
    if any(a < b for a, b in zip(height_and_width(resized), height_and_width(cropped), strict=True)):
        return None  # what is missing would be black
    resize = {} if cropped == resized else {"resize": resized}
    return hugging_face_transform(cropped, "squash" if shorter is None else "clip", **resize, **other)


def hugging_face_transform(image_size: int | list[int], mode: str = "clip", **options: Any) -> dict[str, Any]:
    """transformers converts to RGB first, on white, and rounds the crop's offset down."""
    floor = {"crop_offset": "floor"} if mode == "clip" or "resize" in options else {}
    return eval_transform(image_size, mode, **options, **floor, rgb="on_white")


def letterbox(image_size: int, *, interpolation: str) -> dict[str, Any]:
    """OWLv2's: the photo at the top left of a black square, which is then resized. transformers blurs before it makes a photo
    smaller, and interpolates without Pillow's smoothing, so that pixels differ a little (docs/guides/checkpoints.md)."""
    options = {"where": "top_left", "fill": [0, 0, 0], "interpolation": interpolation}
    return {"eval": {"_target_": LETTERBOX, "image_size": image_size, **options}}


def _square_or_sides(lengths: dict[str, int]) -> int | list[int] | None:
    """A side or [height, width]; None = neither is given."""
    sides = lengths.get("height"), lengths.get("width")
    if None in sides:
        return None
    return lengths["height"] if sides[0] == sides[1] else [lengths["height"], lengths["width"]]


def _side_lengths(size: Any) -> dict[str, int]:
    """Of a dict, of transformers' SizeDict, or of a number for both sides."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {key: value for key, value in (size if isinstance(size, dict) else vars(size)).items() if value is not None}


def _is_owlv2s(node: dict[str, Any]) -> bool:
    height, width = height_and_width(node["image_size"])
    return height == width and node.get("where", "top_left") == "top_left" and list(node.get("fill", ())) == [0, 0, 0]


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
    elif node and node["_target_"] == LETTERBOX and _is_owlv2s(node):
        height, width = height_and_width(node["image_size"])
        file_settings |= {"do_pad": True, "size": {"height": height, "width": width}}
        file_settings["resample"] = numbers[node.get("interpolation", "bicubic")]
    elif node and node["_target_"].endswith(".EvalTransform"):
        resize = node.get("resize") or node["image_size"]
        crop, squashed = ({"height": h, "width": w} for h, w in map(height_and_width, (node["image_size"], resize)))
        file_settings["resample"] = numbers[node.get("interpolation", "bicubic")]
        if node.get("mode", "clip") == "clip":
            if not isinstance(resize, int):
                return  # what just covers an oblong image has no setting there
            file_settings |= {"size": {"shortest_edge": resize}, "do_center_crop": True, "crop_size": crop}
        else:
            file_settings |= {"size": squashed, "do_center_crop": crop != squashed}
            file_settings |= {"crop_size": crop} if crop != squashed else {}
    elif not normalize:
        return
    (folder / FILE).write_text(json.dumps(file_settings | normalize, indent=2) + "\n")
