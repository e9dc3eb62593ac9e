"""A path → a checkpoint in our terms, its kind detected by content; and the one place where weights go into a model.

folder  with checkpoints/*.ckpt         a run of ours        with open_clip_config.json   open_clip
        with config.json                Hugging Face
file    with config and state_dict      ours                 TorchScript archive, OpenAI's keys   OpenAI CLIP
        with state_dict, or OpenAI's keys beside an open_clip_config.json                         open_clip
        any other: the first of FORMATS whose `matches` knows its keys
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vlp.build import FROM_FILES, build
from vlp.checkpoints import (
    albef,
    blip,
    clip,
    files,
    hugging_face,
    hugging_face_blip,
    hugging_face_vilt,
    open_clip,
    preprocessing,
    shards,
    vilt,
)
from vlp.checkpoints.checkpoint import Checkpoint, eval_transform
from vlp.checkpoints.keys import State, below, load_strictly
from vlp.system.errors import UserError

TOKENIZER = "vlp_tokenizer.json"
FORMATS = (albef, vilt, blip)  # modules with matches(keys) and read(file's content, path, architecture)
FOLDERS = (
    hugging_face_vilt,
    hugging_face_blip,
)  # modules with matches(folder) and read(folder, architecture), beside hugging_face's own
_TRANSFORMERS = {
    "text_model.embeddings.token_embedding.weight", "vision_model.embeddings.class_embedding",
    "vilt.embeddings.cls_token", "embeddings.cls_token",
}  # fmt: skip
_OPTIONS = ("vision_heads", "text_heads", "activation", "image_size")
_POSITIONS = ("vision.positions", "vision.attnpool.positional_embedding")


def read(path: Path, architecture: dict[str, Any]) -> Checkpoint:
    """architecture: what the file does not say: vision_heads, text_heads, activation (OpenAI and open_clip), and
    image_size, to which the position embeddings are resized.
    """
    unknown = sorted(set(architecture) - set(_OPTIONS))
    if unknown:
        raise UserError(f"load takes no {', '.join(unknown)}; what it takes is {', '.join(_OPTIONS)}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such checkpoint")
    told = {key: value for key, value in architecture.items() if key != "image_size"}
    checkpoint = _read_folder(path, told) if path.is_dir() and not shards.matches(path) else _read_file(path, told)
    if "image_size" in architecture:
        _resize(checkpoint, architecture["image_size"])
    return checkpoint


def build_model(checkpoint: Checkpoint) -> Any:
    """The VisionLanguageModel, in evaluation mode, with float32 weights."""
    parts = checkpoint.config["model"]
    for name in ("vision", "text"):
        tower = parts.get(name) or {}
        if tower.get("weights") or (tower.get("name") and "config" in tower and not tower["config"]):
            raise UserError(f"this checkpoint's {name} tower names other weights instead of its own architecture")
    model = build(parts, allow=FROM_FILES)
    load_strictly(model, checkpoint.state)
    return model.eval()


def _read_folder(path: Path, told: dict[str, Any]) -> Checkpoint:
    runs = [path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    run = next((file for file in runs if file.is_file() or shards.matches(file)), None)
    if run is not None:
        return _read_file(run, told)
    if (path / open_clip.CONFIG).is_file():
        file = open_clip.weights(path)
        return _open_clip(files.read(file), file, told)
    if (path / "config.json").is_file():
        saved = path / TOKENIZER
        for reader in FOLDERS:
            if reader.matches(path):
                checkpoint = reader.read(path, told)
                checkpoint.tokenizer_json = saved.read_text() if saved.is_file() else None
                return checkpoint
        return _hugging_face(path, told)
    raise FileNotFoundError(
        f"{path} is no checkpoint: it has neither checkpoints/best.ckpt or last.ckpt, nor {open_clip.CONFIG}, "
        "nor config.json"
    )


def _read_file(path: Path, told: dict[str, Any]) -> Checkpoint:
    content = files.read(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    if "config" in content and "state_dict" in content and "model" in content["config"]:
        if told:
            raise UserError(
                f"{path} is a checkpoint of vlp and says its architecture itself; leave out {', '.join(told)}"
            )
        return _ours(content)
    state: Any = content.get("state_dict", content.get("model", content))
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for reader in FORMATS:
        if reader.matches(state):
            return reader.read(state, path, told)
    if _TRANSFORMERS & state.keys():
        raise UserError(f"{path} has transformers' keys: give its folder, where config.json is")
    if not (clip.matches(state) or open_clip.matches(state)):
        some = ", ".join(sorted(map(str, state))[:5])
        raise UserError(f"{path} is of no format that vlp reads; its keys are {some}, …")
    if "state_dict" in content or open_clip.config_beside(path) or not clip.matches(state):
        return _open_clip(state, path, told)
    model, ours = clip.read(state, path, told)
    return Checkpoint(config={"model": model, "transform": _transform(model)}, state=ours)


def _ours(content: dict[str, Any]) -> Checkpoint:
    told = content["config"]
    config = {key: told[key] for key in ("model", "transform") if key in told}
    config["objectives"] = {**(told.get("objectives") or {}), **(told.get("tasks") or {})}  # tasks may have heads too
    return Checkpoint(
        config=config,
        state=below(content["state_dict"], "model."),
        heads=below(content["state_dict"], "objectives."),
        momentum=below(content["state_dict"], "momentum."),
        tokenizer_json=content.get("tokenizer_json"),
    )


def _open_clip(state: State, path: Path, told: dict[str, Any]) -> Checkpoint:
    model, ours, preprocess = open_clip.read(state, path, told)
    modes = {"shortest": "clip", "squash": "squash"}
    mode = modes.get(preprocess.get("resize_mode", "shortest"))
    known = mode and preprocess.get("interpolation", "bicubic") == "bicubic"
    return Checkpoint(
        config={"model": model, "transform": _transform(model, str(mode)) if known else None},
        state=ours,
        vocabulary=path.parent,
    )


def _transform(model: dict[str, Any], mode: str = "clip") -> dict[str, Any]:
    return eval_transform(model["vision"]["image_size"], mode)


def _hugging_face(folder: Path, told: dict[str, Any]) -> Checkpoint:
    """CLIP, or two towers of transformers' own; without a file of their preprocessing only CLIP's is known."""
    model, state = hugging_face.read(folder, told)
    vision, saved = model["vision"], folder / TOKENIZER
    if "image_size" not in vision:
        vision["image_size"] = vision["config"].get("image_size")
    config = {"model": model, "transform": _transform(model) if vision["_target_"].endswith(".ClipVit") else None}
    preprocessing.apply(config, folder)
    return Checkpoint(
        config=config,
        state=state,
        tokenizer_json=saved.read_text() if saved.is_file() else None,
        vocabulary=folder,
    )


def _resize(checkpoint: Checkpoint, image_size: int) -> None:
    vision = checkpoint.config["model"]["vision"]
    for transform in (checkpoint.config.get("transform") or {}).values():
        if "image_size" in transform:
            transform["image_size"] = image_size
    if vision["_target_"].endswith(".ViltPatches"):
        return  # which fits the positions to each image, always from the grid of training
    key = next((key for key in _POSITIONS if key in checkpoint.state), None)
    if key is None:
        raise UserError(f"image_size can be changed for our own towers only, not for {vision['_target_']}")
    vision["image_size"] = image_size
    length = (image_size // vision.get("patch_size", 32)) ** 2 + 1
    for tensors, name in ((checkpoint.state, key), (checkpoint.momentum, f"model.{key}")):
        if name in tensors:
            tensors[name] = resize_positions(tensors[name], length, antialias=checkpoint.antialias)


def resize_positions(positions: Float[Tensor, "n d"], length: int, *, antialias: bool) -> Float[Tensor, "m d"]:
    """Position embeddings of one extra token and a square grid, for another square grid, as open_clip resizes them
    (antialias), or ALBEF and BLIP (not)."""
    extra, grid = positions[:1], positions[1:]
    if length == len(positions):
        return positions
    grid = rearrange(grid.float(), "(h w) d -> 1 d h w", h=math.isqrt(len(grid)))
    side = math.isqrt(length - 1)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=antialias, align_corners=False)
    return torch.cat([extra, rearrange(grid, "1 d h w -> (h w) d").to(extra.dtype)])


def save(checkpoint: Checkpoint, path: Path) -> None:
    """As a file of ours, which `read` reads back bit-equal."""
    state = {f"model.{key}": value for key, value in checkpoint.state.items()}
    state |= {f"objectives.{key}": value for key, value in checkpoint.heads.items()}
    state |= {f"momentum.{key}": value for key, value in checkpoint.momentum.items()}
    content = {"vlp_format": files.FORMAT, "config": checkpoint.config, "state_dict": state}
    torch.save({**content, "tokenizer_json": checkpoint.tokenizer_json}, path)
