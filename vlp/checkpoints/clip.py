"""OpenAI CLIP: the plain state dict that `clip.load` takes, or the TorchScript archives in which the weights came.

The architecture is in the shapes, but for the numbers of heads (width / 64 unless given) and the activation; a plain state
dict can as well be open_clip's, so its activation is assumed, with a warning. OpenAI's `convert_weights` leaves convolutions,
linear maps and projections in float16, the rest in float32.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp.checkpoints.checkpoint import Checkpoint, eval_transform
from vlp.checkpoints.keys import KeyRow, State, count_layers, to_ours, to_theirs
from vlp.checkpoints.settings import HEADS_OF_WIDTH, assumed_for_clip
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object

_HALF = re.compile(
    r"text_projection|visual\.proj|.*\.attn\..*|.*\.mlp\..*|.*conv\d\.weight|.*downsample\.0\.weight|visual\.attnpool\.._proj\..*"
)


def _block_rows(ours: str, theirs: str) -> list[KeyRow]:
    names = {
        "norm1.*": "ln_1.*",
        "attention.qkv.*": "attn.in_proj_*",
        "attention.out.*": "attn.out_proj.*",
        "norm2.*": "ln_2.*",
        "mlp.fc1.*": "mlp.c_fc.*",
        "mlp.fc2.*": "mlp.c_proj.*",
    }
    return [KeyRow(f"{ours}.blocks.{{}}.{a}", f"{theirs}transformer.resblocks.{{}}.{b}") for a, b in names.items()]


VIT = [
    KeyRow("vision.class_token", "visual.class_embedding"),
    KeyRow("vision.positions", "visual.positional_embedding"),
    KeyRow("vision.patches.weight", "visual.conv1.weight"),
    KeyRow("vision.norm_pre.*", "visual.ln_pre.*"),
    *_block_rows("vision", "visual."),
    KeyRow("vision.norm_post.*", "visual.ln_post.*"),
    KeyRow("projection.image.weight", "visual.proj", transpose=True),
]
RESNET = [KeyRow(f"vision.{name}", f"visual.{name}") for name in ("conv{}.weight", "bn{}.*", "layer{}.*", "attnpool.*")]


def text_rows(prefix: str = "") -> list[KeyRow]:
    return [
        KeyRow("text.embedding.weight", f"{prefix}token_embedding.weight"),
        KeyRow("text.positions", f"{prefix}positional_embedding"),
        *_block_rows("text", prefix),
        KeyRow("text.norm.*", f"{prefix}ln_final.*"),
        KeyRow("projection.text.weight", f"{prefix}text_projection", transpose=True),
    ]


SCALE = [KeyRow("projection.logit_scale", "logit_scale")]
ARCHIVE = [KeyRow(None, name) for name in ("input_resolution", "context_length", "vocab_size")]


def matches(state: Mapping[str, object]) -> bool:
    return "visual.conv1.weight" in state and "token_embedding.weight" in state and "text_projection" in state


def key_table(state: Mapping[str, object]) -> list[KeyRow]:
    """The rows for a state dict of either side."""
    resnet = "visual.layer1.0.conv1.weight" in state or "vision.layer1.0.conv1.weight" in state
    return [*(RESNET if resnet else VIT), *text_rows(), *SCALE, *ARCHIVE]


def read(state: Mapping[str, Tensor], path: Path, architecture: dict[str, Any]) -> Checkpoint:
    """The architecture also from a JSON of the same name, or `config.json`, with CLIP's constructor arguments."""
    ours = to_ours(state, key_table(state))
    beside = next((f for f in (path.with_suffix(".json"), path.parent / "config.json") if f.is_file()), None)
    file_config = read_json_object(beside) if beside else {}
    options: dict[str, Any] = {name: file_config.get(theirs) for name, theirs in _FILE_OPTIONS.items()} | architecture
    model = infer_config(ours, **{name: options[name] for name in _FILE_OPTIONS if options[name] is not None})
    of_openai = ARCHIVE[0].theirs in state or bool(set(_CONSTRUCTOR) & file_config.keys())
    return Checkpoint(
        config={"model": model, "transform": eval_transform(model["vision"]["image_size"])},
        state=ours,
        assumed={} if of_openai else assumed_for_clip(model, options),
    )


_FILE_OPTIONS = {"vision_heads": "vision_heads", "text_heads": "transformer_heads", "activation": "activation"}
_CONSTRUCTOR = ("embed_dim", "vision_width", "vision_heads", "transformer_width", "transformer_heads")


def infer_config(
    state: State, *, vision_heads: int | None = None, text_heads: int | None = None, activation: str = "quick_gelu"
) -> dict[str, Any]:
    """The model's config out of the shapes of our state."""
    vision, text = infer_vision(state, vision_heads, activation), infer_text(state, text_heads, activation)
    projection = {
        "_target_": "vlp.models.projection.linear.LinearProjection",
        "image_width": vision["width"],
        "text_width": text["width"],
        "width": len(state.get("projection.text.weight", state["text.norm.bias"])),
        "project_image": "projection.image.weight" in state,
        "project_text": "projection.text.weight" in state,
    }
    return {"_target_": "vlp.models.vlm.VisionLanguageModel", "vision": vision, "text": text, "projection": projection}


def infer_text(state: State, heads: int | None, activation: str) -> dict[str, Any]:
    shape = {key: tuple(value.shape) for key, value in state.items()}
    vocabulary_size, text_width = shape["text.embedding.weight"]
    return {
        "_target_": "vlp.models.text.clip_text.ClipText",
        "vocabulary_size": vocabulary_size,
        "context_length": shape["text.positions"][0],
        "width": text_width,
        "layers": count_layers(state, "text.blocks."),
        "heads": heads,
        "mlp_ratio": shape["text.blocks.0.mlp.fc1.bias"][0] / text_width,
        "activation": activation,
        "pool": "argmax",
    }


def infer_vision(state: State, heads: int | None, activation: str) -> dict[str, Any]:
    shape = {key: tuple(value.shape) for key, value in state.items()}
    if "vision.attnpool.positional_embedding" in state:
        return {
            "_target_": "vlp.models.vision.clip_resnet.ClipResNet",
            "image_size": 32 * math.isqrt(shape["vision.attnpool.positional_embedding"][0] - 1),
            "layers": [count_layers(state, f"vision.layer{stage}.") for stage in (1, 2, 3, 4)],
            "stem_width": shape["vision.layer1.0.conv1.weight"][0],
            "width": shape["vision.attnpool.c_proj.weight"][0],
            "heads": heads,
        }
    width, _, patch_size, patch_width = shape["vision.patches.weight"]
    if patch_size != patch_width:
        raise UserError(f"vlp builds no tower of patches that are not square ({patch_size} x {patch_width} pixels)")
    return {
        "_target_": "vlp.models.vision.clip_vit.ClipVit",
        "image_size": patch_size * math.isqrt(shape["vision.positions"][0] - 1),
        "patch_size": patch_size,
        "width": width,
        "layers": count_layers(state, "vision.blocks."),
        "heads": heads or HEADS_OF_WIDTH.get(width),
        "mlp_ratio": shape["vision.blocks.0.mlp.fc1.bias"][0] / width,
        "activation": activation,
    }


def write(config: dict[str, Any], state: State, path: Path) -> None:
    """float16 where OpenAI has it, unless a value would change by it: then the file stays float32, which `clip.load`
    takes as well. What OpenAI's code could not run as the same model is refused.
    """
    _check_writable(config["model"])
    theirs = to_theirs(state, [row for row in key_table(state) if row.ours])
    theirs = {key: value.float() if value.is_floating_point() else value for key, value in theirs.items()}
    half = {key: value.half() for key, value in theirs.items() if _HALF.fullmatch(key)}
    if all(torch.equal(value.float(), theirs[key]) for key, value in half.items()):
        theirs |= half
    torch.save(theirs, path)
    vision, tower = (config["model"][name] for name in ("vision", "text"))
    if any(t.get("heads") not in (None, _tower_width(t) / 64) for t in (vision, tower)):
        heads = {"vision_heads": vision.get("heads"), "transformer_heads": tower.get("heads")}
        path.with_suffix(".json").write_text(json.dumps(heads) + "\n")


def _tower_width(tower: dict[str, Any]) -> int:
    return 32 * tower["stem_width"] if "stem_width" in tower else tower["width"]


def _check_writable(model: dict[str, Any]) -> None:
    """What OpenAI's code would fail on is let through, as we read it; what it would silently run otherwise is not."""
    reasons = []
    for name in ("vision", "text"):
        tower = model.get(name)
        if tower is None:
            raise UserError(f"OpenAI's format holds two towers; this model has no {name} tower")
        if not tower["_target_"].rpartition(".")[2].startswith("Clip"):
            raise UserError(f"OpenAI's format holds only CLIP's own towers; the {name} tower is a {tower['_target_']}")
        if tower.get("heads") is not None and tower["heads"] != _tower_width(tower) // 64 > 0:
            reasons.append(f"{name}.heads={tower['heads']}")
        usual = {"activation": "quick_gelu", "norm_eps": 1e-5, "causal": True} | (
            {"pool": "class"} if name == "vision" else {}
        )
        reasons += [f"{name}.{key}={tower[key]}" for key, value in usual.items() if tower.get(key, value) != value]
    tower = model["text"]
    highest = tower.get("eot_id") in (None, tower["vocabulary_size"] - 1)
    if tower.get("pool", "end") in ("first", "last") or not highest:
        reasons.append(f"text.pool={tower['pool']}")
    if reasons:
        raise UserError(
            f"OpenAI's code would run another model than this one, as it does not know {', '.join(reasons)}"
        )
