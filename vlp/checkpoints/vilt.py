"""ViLT's checkpoints (Kim et al., arXiv:2102.03334; dandelin/ViLT, Apache-2.0) ↔ vlp's config and state.

A file is Lightning's dump, `{'state_dict': …}`, with the heads of what it was trained for: masked language modelling and
image-text matching, VQA, NLVR2, or retrieval. Its one transformer is our fusion; the towers are embedders. Sizes are in
the shapes; a `config.json` with the original's options beside the file tells the number of heads (`num_heads`; else
width / 64), `drop_rate` and `max_image_len`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import KeyRow, State, count_layers, to_ours, to_theirs
from vlp.system.errors import UserError
from vlp.system.json_files import read_json, read_json_object

_POSITION_IDS = "text_embeddings.position_ids"
TABLE = [
    KeyRow("text.embedding.weight", "text_embeddings.word_embeddings.weight"),
    KeyRow("text.positions.weight", "text_embeddings.position_embeddings.weight"),
    KeyRow("text.token_types.weight", "text_embeddings.token_type_embeddings.weight"),
    KeyRow("text.norm.*", "text_embeddings.LayerNorm.*"),
    KeyRow(None, _POSITION_IDS),
    KeyRow("vision.class_token", "transformer.cls_token"),
    KeyRow("vision.positions", "transformer.pos_embed"),
    KeyRow("vision.patches.*", "transformer.patch_embed.proj.*"),
    KeyRow("fusion.types.weight", "token_type_embeddings.weight"),
    KeyRow("fusion.blocks.{}.norm1.*", "transformer.blocks.{}.norm1.*"),
    KeyRow("fusion.blocks.{}.attention.qkv.*", "transformer.blocks.{}.attn.qkv.*"),
    KeyRow("fusion.blocks.{}.attention.out.*", "transformer.blocks.{}.attn.proj.*"),
    KeyRow("fusion.blocks.{}.norm2.*", "transformer.blocks.{}.norm2.*"),
    KeyRow("fusion.blocks.{}.mlp.*", "transformer.blocks.{}.mlp.*"),
    KeyRow("fusion.norm.*", "transformer.norm.*"),
    KeyRow("fusion.pooler.*", "pooler.dense.*"),
    KeyRow("mlm.head.transform.*", "mlm_score.transform.dense.*"),
    KeyRow("mlm.head.norm.*", "mlm_score.transform.LayerNorm.*"),
    KeyRow("mlm.head.decoder.weight", "mlm_score.decoder.weight"),
    KeyRow("mlm.head.bias", "mlm_score.bias"),
    KeyRow("itm.head.*", "itm_score.fc.*"),
    KeyRow("irtr.head.*", "rank_output.*"),
    KeyRow("vqa.classifier.*", "vqa_classifier.*"),
    KeyRow("nlvr2.head.*", "nlvr2_classifier.*"),
]
_POSITIONS = ("transformer.pos_embed", "vilt.embeddings.position_embeddings")
_CLASS_TOKEN = ("transformer.cls_token", "vilt.embeddings.cls_token")
_LABELS = ("vqa_dict.json", "labels.json", "config.json")  # the first is the name under which the authors publish them


def matches(state: Mapping[str, object]) -> bool:
    return "transformer.pos_embed" in state and "text_embeddings.word_embeddings.weight" in state


def read(state: Mapping[str, Tensor], path: Path, architecture: dict[str, Any]) -> Checkpoint:
    """architecture: vision_heads or text_heads, which are the same heads here; activation."""
    beside = path.parent / "config.json"
    file_config = read_json_object(beside) if beside.is_file() else {}
    heads = {value for key, value in architecture.items() if key.endswith("_heads") and value is not None}
    if len(heads) > 1:
        raise UserError("ViLT has one transformer: give vision_heads or text_heads, not two different numbers")
    longest = file_config.get("max_image_len", -1)
    return build_checkpoint(
        to_ours(drop_leading_dimensions(state), TABLE),
        path.parent,
        heads=heads.pop() if heads else file_config.get("num_heads"),
        max_patches=longest if longest > 0 else None,
        dropout=file_config.get("drop_rate", 0.1),
        activation=architecture.get("activation", "gelu"),
    )


def drop_leading_dimensions(state: Mapping[str, Tensor]) -> State:
    """The class token and the position embeddings without their leading dimensions of size one, in either format."""
    positions = {key: value.flatten(0, -2) for key, value in state.items() if key in _POSITIONS}
    return {**state, **positions, **{key: value.flatten() for key, value in state.items() if key in _CLASS_TOKEN}}


def add_leading_dimensions(state: Mapping[str, Tensor]) -> State:
    positions = {key: value[None] for key, value in state.items() if key in _POSITIONS}
    return {**state, **positions, **{key: value[None, None] for key, value in state.items() if key in _CLASS_TOKEN}}


def build_checkpoint(
    ours: State, folder: Path, *, heads: int | None, max_patches: int | None, dropout: float, activation: str,
    norm_eps: float = 1e-6, text_norm_eps: float = 1e-12,
) -> Checkpoint:  # fmt: skip
    """The checkpoint whose tensors, heads' included, are `ours`.  folder: where vocabulary and answers are looked for.
    text_norm_eps: of the text embedder and of masked language modelling's head.
    """
    model = _model_config(ours, dropout=dropout, max_patches=max_patches)
    model["text"]["norm_eps"] = text_norm_eps
    model["fusion"] |= {"heads": heads, "activation": activation, "norm_eps": norm_eps}
    parts = tuple(f"{name}." for name in ("vision", "text", "fusion"))
    state = {key: value for key, value in ours.items() if key.startswith(parts)}
    transform = {"_target_": "vlp.data.transforms.MinMaxTransform", "image_size": model["vision"]["image_size"]}
    return Checkpoint(
        config={
            "model": model,
            "objectives": _objective_configs(ours, folder, activation=activation, norm_eps=text_norm_eps),
            "transform": {"eval": transform},
            "tokenizer": {
                "_target_": "vlp.tokenizers.wordpiece.WordPieceTokenizer",
                "context_length": model["text"]["context_length"],
            },
        },
        state=state,
        heads={key: value for key, value in ours.items() if key not in state},
        vocabulary=folder,
    )


def _model_config(ours: State, *, dropout: float, max_patches: int | None) -> dict[str, Any]:
    """As far as the shapes tell."""
    vocabulary_size, width = ours["text.embedding.weight"].shape
    patch_size = ours["vision.patches.weight"].shape[-1]
    return {
        "_target_": "vlp.models.vlm.VisionLanguageModel",
        "vision": {
            "_target_": "vlp.models.vision.vilt_patches.ViltPatches",
            "image_size": math.isqrt(len(ours["vision.positions"]) - 1) * patch_size,
            "patch_size": patch_size,
            "width": width,
            "max_patches": max_patches,
            "dropout": dropout,
        },
        "text": {
            "_target_": "vlp.models.text.bert.BertText",
            "vocabulary_size": vocabulary_size,
            "context_length": len(ours["text.positions.weight"]),
            "width": width,
            "layers": 0,
            "token_types": len(ours["text.token_types.weight"]),
            "dropout": dropout,
        },
        "fusion": {
            "_target_": "vlp.models.fusion.single_stream.SingleStreamFusion",
            "image_width": width,
            "text_width": width,
            "width": width,
            "layers": count_layers(ours, "fusion.blocks."),
            "mlp_ratio": len(ours["fusion.blocks.0.mlp.fc1.bias"]) / width,
            "images": len(ours["fusion.types.weight"]) - 1,
            "dropout": dropout,
        },
    }


def _objective_configs(ours: State, folder: Path, *, activation: str, norm_eps: float) -> dict[str, Any]:
    """Of the heads that the file has."""
    vocabulary_size, width = ours["text.embedding.weight"].shape
    known: dict[str, dict[str, Any]] = {
        "mlm": {
            "_target_": "vlp.objectives.mlm.MLM",
            "vocabulary_size": vocabulary_size,
            "whole_words": True,
            "tied": "mlm.head.decoder.weight" not in ours,
            "activation": activation,
            "norm_eps": norm_eps,
        },
        "itm": {"_target_": "vlp.objectives.itm.ITM", "contrastive": False},
        "irtr": {"_target_": "vlp.objectives.irtr.IRTR"},
        "vqa": {"_target_": "vlp.tasks.vqa.VQA"},
        "nlvr2": {"_target_": "vlp.tasks.nlvr2.NLVR2", "head": "vilt"},
    }
    found = {name: {**node, "width": width} for name, node in known.items() if count_layers(ours, f"{name}.")}
    if "vqa" in found:
        found["vqa"]["answers"] = read_answers(folder, len(ours["vqa.classifier.3.bias"]))
    return found


def read_answers(folder: Path, count: int) -> list[str]:
    """Of a JSON beside the checkpoint, a list or {number: answer}, also below `id2label`; where none has `count` of them,
    LABEL_0, LABEL_1, …, as transformers names classes without a name."""
    for file in (folder / name for name in _LABELS):
        content = read_json(file) if file.is_file() else None
        if isinstance(content, dict):
            content = content.get("id2label", content)
            content = [content.get(str(number)) for number in range(count)] if len(content) == count else None
        if isinstance(content, list) and len(content) == count and all(isinstance(name, str) for name in content):
            return content
    return [f"LABEL_{number}" for number in range(count)]


def add_second_image_embedding(state: Mapping[str, Tensor]) -> State:
    """For NLVR2: a type embedding for a second image, which starts as a copy of the first one's (the original's rule)."""
    types = state["fusion.types.weight"]
    return {**state, "fusion.types.weight": types if len(types) == 3 else torch.cat([types, types[1:2]])}


def write(checkpoint: Checkpoint, path: Path) -> None:
    """As the original reads it with `load_path`: the `state_dict` of a Lightning dump, bit-equal."""
    theirs = add_leading_dimensions(to_theirs({**checkpoint.state, **checkpoint.heads}, TABLE))
    theirs[_POSITION_IDS] = torch.arange(len(theirs["text_embeddings.position_embeddings.weight"]))[None]
    torch.save({"state_dict": theirs}, path)
