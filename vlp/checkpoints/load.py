"""A path → a checkpoint in our terms, its kind detected by content; and the one place where weights go into a model.

folder  with checkpoints/*.ckpt         a run of ours        with open_clip_config.json   open_clip
        with config.json                Hugging Face
file    with config and state_dict      ours                 TorchScript archive, OpenAI's keys   OpenAI CLIP
        with state_dict, or OpenAI's keys beside an open_clip_config.json                         open_clip
        a backbone's `stem.conv1.weight`, or Caffe2's `conv1_w`                                   Detectron2
        any other: the first of FORMATS whose `matches` knows its keys
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.build import ALLOWED_IN_FILES, build
from vlp.checkpoints import (
    albef,
    blip,
    clip,
    detectron2,
    hugging_face,
    hugging_face_blip,
    hugging_face_eomt,
    hugging_face_owl,
    hugging_face_siglip,
    hugging_face_vilt,
    open_clip,
    preprocessing,
    sharded,
    tensor_files,
    vilt,
)
from vlp.checkpoints.adapters import merge_adapters
from vlp.checkpoints.agreement import take_settings
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import State, load_strictly, without_prefix
from vlp.checkpoints.partial import load_matching
from vlp.checkpoints.place import weights_place
from vlp.checkpoints.settings import assume_heads
from vlp.checkpoints.wrappers import unwrap
from vlp.structures import height_and_width
from vlp.system.errors import UserError
from vlp.system.weight_folders import OPEN_CLIP, OPEN_CLIP_CONFIG, folder_names
from vlp.upgrade import upgrade

TOKENIZER = "vlp_tokenizer.json"
# Readers. Of files: matches(keys), read(state, path, architecture) -> Checkpoint, and so are clip and open_clip, whose keys
# need a second question. Of folders: matches(folder), read(folder, architecture) -> Checkpoint; hugging_face takes the rest.
FORMATS = (albef, vilt, blip)
FOLDERS = (hugging_face_vilt, hugging_face_blip, hugging_face_siglip, hugging_face_owl, hugging_face_eomt)
_TRANSFORMERS = {
    "text_model.embeddings.token_embedding.weight", "vision_model.embeddings.class_embedding",
    "vilt.embeddings.cls_token", "embeddings.cls_token",
}  # fmt: skip
_OPTIONS = ("vision_heads", "text_heads", "activation", "image_size")
_SCALARS = tuple(f"projection.{name}" for name in ("logit_scale", "logit_bias", "temperature"))
_BIASES = tuple(f"projection.{name}" for name in ("logit_bias", "image.bias", "text.bias"))
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
    architecture = {key: value for key, value in architecture.items() if value is not None}
    options = {key: value for key, value in architecture.items() if key != "image_size"}
    checkpoint = (
        _read_folder(path, options) if path.is_dir() and not sharded.is_sharded(path) else _read_file(path, options)
    )
    for key in _SCALARS:  # some codes save them with shape [1]
        if key in checkpoint.state and checkpoint.state[key].shape == (1,):
            checkpoint.state[key] = checkpoint.state[key].reshape(())
    if "image_size" in architecture:
        _resize_to(checkpoint, architecture["image_size"])
    return checkpoint


def build_model(checkpoint: Checkpoint) -> Any:
    """The VisionLanguageModel, in evaluation mode, with float32 weights."""
    parts = checkpoint.config["model"]
    for name in ("vision", "text"):
        tower = parts.get(name) or {}
        if tower.get("weights") or (tower.get("name") and "config" in tower and not tower["config"]):
            raise UserError(f"this checkpoint's {name} tower names other weights instead of its own architecture")
    model = build(parts, allow=ALLOWED_IN_FILES)
    load_strictly(model, checkpoint.state)
    return model.eval()


def load_weights(
    path: Path,
    model: nn.Module,
    heads: Mapping[str, nn.Module],
    momentum: Any = None,
    checkpoint: Checkpoint | None = None,
    *,
    strict: bool = True,
) -> list[str]:
    """Starts a run from any checkpoint that `read` reads; returns what was not loaded, in sentences.

    Each part of the model (vision, text, projection, …) must be of the file's architecture, key for key, except for the
    image size, to which position embeddings are resized, and for biases of the projection, which start at their defaults.
    With strict=False, tensors that do not fit are left, and what was taken and left is part of the result. Heads and
    queues that the run and the file have in common are loaded, and so is the momentum copy, where the run has one
    (`MomentumCopy`).  checkpoint: what `read` gave for the path; None = it is read here.  Raises ValueError.
    """
    checkpoint, required = checkpoint or read(path, {}), model.state_dict()
    try:
        size: Any = getattr(model.vision, "image_size", None)
        if size and any(
            key in required and required[key].shape != checkpoint.state[key].shape for key in _position_keys(checkpoint)
        ):
            _resize_to(checkpoint, size)
        notes = take_settings(model, checkpoint)
        notes += _load_parts(model, checkpoint.state) if strict else load_matching(model, checkpoint)
    except ValueError as error:
        fix = (
            " that it was trained with, or take what fits with checkpoint_strict=false"
            if strict
            else " with parts of it"
        )
        raise UserError(
            f"checkpoint={path} is of another architecture than model=…: {error}; choose a model=…{fix}"
        ) from error
    stored = {key.partition(".")[0] for key in checkpoint.heads}
    for name, head in heads.items():
        if name in stored:
            notes += _load_head(name, head, without_prefix(checkpoint.heads, f"{name}."))
        elif any(True for _ in head.parameters()):
            notes.append(f"has no head for {name}, which is initialised from scratch")
    if unused := sorted(stored - set(heads)):
        notes.append(f"has heads that are not used by this run: {', '.join(unused)}")
    if momentum is not None:
        take_settings(momentum.model, checkpoint)
        momentum.reset_to_originals()
        if checkpoint.momentum and strict:
            notes += _load_parts(momentum.model, without_prefix(checkpoint.momentum, "model."))
    return [f"checkpoint={path} {note}" for note in notes]


def _load_parts(model: nn.Module, state: State) -> list[str]:
    own = {name: part for name, part in model.named_children() if part.state_dict()}
    others = {key.partition(".")[0] for key in state}
    added = _default_biases(model, state) if "projection" in own.keys() & others else {}
    state = state | added
    if own.keys() == others:  # at once, as parts may share layers
        load_strictly(model, state)
    else:
        for name in own.keys() & others:
            load_strictly(own[name], without_prefix(state, f"{name}."))
    missing = [f"has no {name}, which is initialised from scratch" for name in own if name not in others]
    missing += [f"has no {key}, which starts at {value.unique().tolist()[0]:g}" for key, value in added.items()]
    return missing + [f"has a {name} that is not used by this run" for name in sorted(others - own.keys())]


def _default_biases(model: nn.Module, state: State) -> State:
    """The biases of a projection that CLIP's has not, such as SigLIP's `logit_bias`, where the file has none."""
    own = model.state_dict()
    return {key: own[key] for key in _BIASES if key in own and key not in state}


def _load_head(name: str, head: nn.Module, state: State) -> list[str]:
    for key, value in state.items():
        if key.endswith("_queue.id"):
            state[key] = torch.full_like(value, -1)  # ids of another run's data say nothing about this one's
    try:
        load_strictly(head, state)
    except ValueError as error:
        return [f"has another {name}, which is initialised from scratch, as {error}"]
    return []


def _read_folder(path: Path, options: dict[str, Any]) -> Checkpoint:
    run = weights_place(path)
    if run != path:
        return _read_file(run, options)
    names = folder_names(path)
    if names == OPEN_CLIP:
        return open_clip.read(tensor_files.read_folder(path, names), path / OPEN_CLIP_CONFIG, options)
    reader: Any = next((reader for reader in FOLDERS if reader.matches(path)), hugging_face)
    checkpoint: Checkpoint = reader.read(path, options)
    if checkpoint.config.get("transform") and not (path / preprocessing.FILE).is_file():
        checkpoint.assumed["preprocessing"] = (
            f"its format's usual resizing and normalisation, without {preprocessing.FILE}"
        )
    saved = path / TOKENIZER
    checkpoint.tokenizer_json = saved.read_text() if saved.is_file() else None
    return checkpoint


def _read_file(path: Path, options: dict[str, Any]) -> Checkpoint:
    content = tensor_files.read(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    config = content.get("config")
    if isinstance(config, dict) and "state_dict" in content and "model" in config:
        if options:
            raise UserError(
                f"{path} is a checkpoint of vlp and says its architecture itself; leave out {', '.join(options)}"
            )
        return _own_checkpoint(content)
    if detectron2.matches(content):
        return detectron2.read(content, path, options)
    state = unwrap(content, path, _is_known)
    for reader in FORMATS:
        if reader.matches(state):
            checkpoint: Checkpoint = reader.read(state, path, options)
            assume_heads(checkpoint)
            return checkpoint
    if _TRANSFORMERS & state.keys():
        raise UserError(f"{path} has transformers' keys: give its folder, where config.json is")
    if "state_dict" in content or open_clip.config_beside(path) or not clip.matches(state):
        return open_clip.read(state, path, options)
    return clip.read(state, path, options)


def _is_known(state: State) -> bool:
    readers = (*FORMATS, clip, open_clip)
    return bool(_TRANSFORMERS & state.keys()) or any(reader.matches(state) for reader in readers)


def _own_checkpoint(content: dict[str, Any]) -> Checkpoint:
    options = upgrade(content["config"])
    config: dict[str, Any] = {key: options[key] for key in ("model", "transform") if key in options}
    config["objectives"] = {
        **(options.get("objectives") or {}),
        **(options.get("tasks") or {}),
    }  # tasks may have heads too
    state = without_prefix(content["state_dict"], "model.")
    return Checkpoint(
        config=config,
        state=merge_adapters(state, **options["lora"]) if options.get("lora") else state,
        heads=without_prefix(content["state_dict"], "objectives."),
        momentum=without_prefix(content["state_dict"], "momentum."),
        tokenizer_json=content.get("tokenizer_json"),
    )


def _position_keys(checkpoint: Checkpoint) -> list[str]:
    return [key for key in _POSITIONS if key in checkpoint.state]


def _resize_to(checkpoint: Checkpoint, image_size: int | Sequence[int]) -> None:
    vision = checkpoint.config["model"].get("vision")
    if vision is None:
        raise UserError("this checkpoint has no image tower whose image_size could be changed")
    after, size = height_and_width(image_size), vision.get("image_size")
    for transform in (checkpoint.config.get("transform") or {}).values():
        if "image_size" in transform:
            if transform.get("resize") is not None:  # the same part of the picture is seen
                scale = max(a / b for a, b in zip(after, height_and_width(transform["image_size"]), strict=True))
                resized = [round(side * scale) for side in height_and_width(transform["resize"])]
                transform["resize"] = resized[0] if resized[0] == resized[1] else resized
            transform["image_size"] = image_size
    if vision["_target_"].endswith(".ViltPatches"):
        return  # which fits the positions to each image, always from the grid of training
    key = next(iter(_position_keys(checkpoint)), None)
    if key is None:
        raise UserError(f"image_size can be changed for our own towers only, not for {vision['_target_']}")
    vision["image_size"] = image_size
    before, patch_size = height_and_width(size), vision.get("patch_size", 32)
    grids = [(height // patch_size, width // patch_size) for height, width in (before, after)]
    for tensors, name in ((checkpoint.state, key), (checkpoint.momentum, f"model.{key}")):
        if name in tensors:
            tensors[name] = resize_positions(tensors[name], *grids, antialias=checkpoint.antialias)


def resize_positions(
    positions: Float[Tensor, "n d"], before: tuple[int, int], after: tuple[int, int], *, antialias: bool
) -> Float[Tensor, "m d"]:
    """Position embeddings of a grid of rows and columns, and of the class token before it if there is one, for another grid,
    as open_clip resizes them (antialias), or ALBEF, BLIP and transformers (not)."""
    if before == after:
        return positions
    extra, grid = positions.split([len(positions) - before[0] * before[1], before[0] * before[1]])
    grid = rearrange(grid.float(), "(h w) d -> 1 d h w", h=before[0])
    grid = F.interpolate(grid, size=after, mode="bicubic", antialias=antialias, align_corners=False)
    return torch.cat([extra, rearrange(grid, "1 d h w -> (h w) d").to(extra.dtype)])


def save(checkpoint: Checkpoint, path: Path) -> None:
    """As a file of ours, which `read` reads back bit-equal."""
    state = {f"model.{key}": value for key, value in checkpoint.state.items()}
    state |= {f"objectives.{key}": value for key, value in checkpoint.heads.items()}
    state |= {f"momentum.{key}": value for key, value in checkpoint.momentum.items()}
    content = {"vlp_format": tensor_files.FORMAT, "config": checkpoint.config, "state_dict": state}
    torch.save({**content, "tokenizer_json": checkpoint.tokenizer_json}, path)
