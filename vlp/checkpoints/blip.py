"""BLIP's checkpoints (Li et al., arXiv:2201.12086; salesforce/BLIP, BSD-3-Clause) ↔ vlp's config and tensors.

A file holds `{'model': state, …}`: of captioning (text_decoder), VQA (text_encoder, text_decoder), matching and retrieval
(text_encoder, projections, itm_head) or pre-training (all of them); with a momentum copy (`…_m`) and queues where it has
them. `text_encoder` is our text tower, whose layers are the fusion too (`vlp.models.fusion.grounded`); in pre-training the
decoder shares them. [DEC] and [ENC] are the last two ids of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vlp.checkpoints import bert_keys
from vlp.checkpoints.checkpoint import Checkpoint, eval_transform
from vlp.checkpoints.keys import KeyRow, State, count_layers, to_ours, to_theirs
from vlp.checkpoints.salesforce import (
    VISION,
    add_leading_dimensions,
    check_tied,
    drop_leading_dimensions,
    join_parts,
    join_queue,
    split_parts,
    split_queue,
)  # fmt: skip
from vlp.checkpoints.tensor_files import find_beside
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object

_BERT_CONFIG = {"num_attention_heads": "text_heads", "hidden_act": "activation", "layer_norm_eps": "text_norm_eps"}
PROMPT = "a picture of "  # models/blip.py
_PREDICTIONS = "text_decoder.cls.predictions"
_DISTILLATION = 0.4
TIED = f"{_PREDICTIONS}.decoder.weight", "text_decoder.bert.embeddings.word_embeddings.weight", "BLIP"


def matches(state: Mapping[str, object]) -> bool:
    """ALBEF's has token types, and layers without cross-attention."""
    cross = any(".layer.0.crossattention.self.query.weight" in key for key in state)
    return "visual_encoder.pos_embed" in state and cross and not any("token_type" in key for key in state)


def text_rows(ours: str = "model", momentum_prefix: str = "") -> list[KeyRow]:
    """Of text tower and projections, for which the original and transformers have the same names."""
    text = f"text_encoder{momentum_prefix}"
    rows = [
        *bert_keys.embedding_rows(f"{ours}.text", text),
        *bert_keys.layer_rows(f"{ours}.text.blocks.{{}}", f"{text}.encoder.layer.{{}}", cross=True),
    ]
    for own, other in (("image", "vision"), ("text", "text")):
        rows.append(KeyRow(f"{ours}.projection.{own}.*", f"{other}_proj{momentum_prefix}.*"))
    return rows


DECODER = [
    *bert_keys.embedding_rows("model.decoder", "text_decoder.bert"),
    *bert_keys.layer_rows("model.decoder.blocks.{}", "text_decoder.bert.encoder.layer.{}", cross=True),
    *bert_keys.language_head_rows("model.decoder.head", _PREDICTIONS),
    KeyRow("objectives.itm.head.*", "itm_head.*"),
]
TABLE = [
    *(KeyRow(f"model.vision.{own}", f"visual_encoder.{other}") for own, other in VISION.items()),
    *(KeyRow(f"momentum.model.vision.{own}", f"visual_encoder_m.{other}") for own, other in VISION.items()),
    *text_rows(),
    *text_rows("momentum.model", "_m"),
    *DECODER,
    KeyRow("model.projection.temperature", "temp"),
    KeyRow("objectives.itc.image_queue.embed", "image_queue", transpose=True),
    KeyRow("objectives.itc.text_queue.embed", "text_queue", transpose=True),
]
# retrieval's queue knows which image a feature is of, and calls its pointer otherwise
_QUEUE = {False: [KeyRow("pointer", "queue_ptr")], True: [KeyRow("pointer", "ptr_queue"), KeyRow("id", "idx_queue")]}


def read(state: State, path: Path, architecture: dict[str, Any]) -> Checkpoint:
    """Numbers of heads are arguments, or in `med_config.json` and `fixture_vision.json` beside; all else is in the shapes."""
    bias = f"{_PREDICTIONS}.decoder.bias"
    if bias in state:  # the copy that grew with the vocabulary
        state = {**state, f"{_PREDICTIONS}.bias": state[bias]}
    check_tied(state, *TIED)
    ours = drop_leading_dimensions(to_ours(state, [*TABLE, *_QUEUE["idx_queue" in state]]))
    if "pointer" in ours:
        if "id" in ours:
            ours["id"] = ours["id"].masked_fill(ours["id"] < 0, -1)  # -100 in a new queue
        split_queue(ours)
    file_config: dict[str, Any] = {}
    for file, names in (
        (find_beside(path, "med_config.json", "bert_config.json"), _BERT_CONFIG),
        (find_beside(path, "fixture_vision.json"), {"num_heads": "vision_heads"}),
    ):
        content = read_json_object(file) if file else {}
        file_config |= {ours: content[theirs] for theirs, ours in names.items() if theirs in content}
    vocabulary = find_beside(path, "vocab.txt")
    if "activation" in architecture:  # of all towers; the file beside tells the text layers' only
        file_config["vision_activation"] = architecture["activation"]
    return build_checkpoint(ours, file_config | architecture, vocabulary.parent if vocabulary else None)


def build_checkpoint(ours: State, file_config: dict[str, Any], vocabulary: Path | None) -> Checkpoint:
    """Config and checkpoint of tensors under our names.

    file_config: image_size (default: of whole patches), vision_heads, text_heads, vision_activation, activation and text_norm_eps
    (of the text layers), norm_eps (of the vision tower), dropout, label_smoothing; question_start_id and start_id instead
    of [ENC] and [DEC].
    """
    if "model.projection.image.weight" in ours and "model.projection.temperature" not in ours:
        # the file has none and its code gives the cosine itself as similarity
        ours["model.projection.temperature"] = torch.ones(())
    model = _model_config(ours, file_config)
    state, heads, momentum = split_parts(ours)
    if momentum:
        _complete_momentum(momentum, state, heads)
    return Checkpoint(
        config={
            "model": model,
            "transform": eval_transform(model["vision"]["image_size"], "squash", rgb="first"),
            "objectives": _objective_configs(ours, model, file_config.get("label_smoothing", 0.1)),
            "tokenizer": {
                "_target_": "vlp.tokenizers.wordpiece.WordPieceTokenizer",
                "extra_tokens": ["[DEC]", "[ENC]"],
                "cleaning": "blip",
                "context_length": 35 if "text" in model else 40,
            },
        },
        state=state,
        heads=heads,
        momentum=momentum,
        vocabulary=vocabulary,
        antialias=False,
    )


def _complete_momentum(momentum: State, state: State, heads: State) -> None:
    """What BLIP keeps no momentum copy of moves with the model: heads, and what the decoder does not share with the text tower."""
    for key, value in state.items():
        part, _, name = key.partition(".")
        shared = part == "decoder" and not {"attention", "norm1", "head"} & set(name.split("."))
        momentum.setdefault(f"model.{key}", momentum[f"model.text.{name}"] if shared else value)
    for key, value in heads.items():
        if "_queue." not in key:
            momentum.setdefault(f"objectives.{key}", value)


def _model_config(ours: State, file_config: dict[str, Any]) -> dict[str, Any]:
    shape = {key.removeprefix("model."): tuple(value.shape) for key, value in ours.items()}
    vision_width, _, patch_size, _ = shape["vision.patches.weight"]
    activation = file_config.get("activation", "gelu")

    def text(name: str) -> dict[str, Any]:
        vocabulary_size, width = shape[f"{name}.embedding.weight"]
        return {
            "vocabulary_size": vocabulary_size,
            "context_length": shape[f"{name}.positions.weight"][0],
            "width": width,
            "layers": count_layers(ours, f"model.{name}.blocks."),
            "heads": file_config.get("text_heads"),
            "hidden_width": shape[f"{name}.blocks.0.mlp.fc1.bias"][0],
            "activation": activation,
            "token_types": 0,
            "dropout": file_config.get("dropout", 0.1),
            "norm_eps": file_config.get("text_norm_eps", 1e-12),
            "memory_width": shape[f"{name}.blocks.0.cross_attention.key_value.weight"][1],
        }

    model: dict[str, Any] = {"_target_": "vlp.models.vlm.VisionLanguageModel"}
    model["vision"] = {
        "_target_": "vlp.models.vision.clip_vit.ClipVit",
        "image_size": file_config.get("image_size", patch_size * math.isqrt(shape["vision.positions"][0] - 1)),
        "patch_size": patch_size,
        "width": vision_width,
        "layers": count_layers(ours, "model.vision.blocks."),
        "heads": file_config.get("vision_heads"),
        "mlp_ratio": shape["vision.blocks.0.mlp.fc1.bias"][0] / vision_width,
        "activation": file_config.get("vision_activation", "gelu"),
        "norm_eps": file_config.get("norm_eps", 1e-6), "pre_norm": False, "patch_bias": True, "norm_states": True,
    }  # fmt: skip
    if "text.embedding.weight" in shape:
        model["text"] = {"_target_": "vlp.models.text.bert.BertText", **text("text")}
        vocabulary_size, width = shape["text.embedding.weight"]
        model["fusion"] = {
            "_target_": "vlp.models.fusion.grounded.GroundedFusion", "image_width": vision_width, "text_width": width,
            "start_id": file_config.get("question_start_id", vocabulary_size - 1),
        }  # fmt: skip
    if "projection.image.weight" in shape:
        model["projection"] = {
            "_target_": "vlp.models.projection.linear.LinearProjection", "image_width": vision_width, "text_width": width,
            "width": shape["projection.image.weight"][0], "image_bias": True, "text_bias": True, "divisor": True,
        }  # fmt: skip
    if "decoder.embedding.weight" in shape:
        model["decoder"] = {
            "_target_": "vlp.models.decoder.causal.CausalDecoder", **text("decoder"),
            "start_id": file_config.get("start_id", shape["decoder.embedding.weight"][0] - 2),
            "shared": "projection.image.weight" in shape,  # pre-training alone has both
        }  # fmt: skip
    return model


def _objective_configs(ours: State, model: dict[str, Any], smoothing: float) -> dict[str, dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}
    if "objectives.itc.image_queue.embed" in ours:
        size, joint = ours["objectives.itc.image_queue.embed"].shape
        nodes["itc"] = {
            "_target_": "vlp.objectives.itc.ITC", "queue_size": size, "width": joint, "distillation": _DISTILLATION,
        }  # fmt: skip
    if "objectives.itm.head.weight" in ours:
        momentum = "momentum.model.vision.positions" in ours
        width = model["text"]["width"]
        nodes["itm"] = {"_target_": "vlp.objectives.itm.ITM", "width": width, "momentum": momentum}
    if "decoder" in model and "text" in model and "projection" not in model:
        nodes["vqa"] = {"_target_": "vlp.tasks.vqa.VQA", "kind": "generate", "label_smoothing": smoothing}
    elif "decoder" in model:
        nodes["lm"] = {"_target_": "vlp.objectives.lm.LM", "label_smoothing": smoothing}
        if "text" not in model:
            nodes["lm"]["prompt"] = PROMPT
        nodes["captioning"] = {"_target_": "vlp.tasks.captioning.Captioning", "prompt": nodes["lm"].get("prompt", "")}
    return nodes


def write(checkpoint: Checkpoint, path: Path) -> None:
    """As BLIP's scripts save it, but for the optimiser. What its code would not run as the same model is refused."""
    model = checkpoint.config["model"]
    targets = {"vision": ".ClipVit", "text": ".BertText", "fusion": ".GroundedFusion", "decoder": ".CausalDecoder"}
    for name, target in targets.items():
        if name in model and not model[name]["_target_"].endswith(target):
            raise UserError(f"BLIP's format holds only {target[1:]} as {name}, not {model[name]['_target_']}")
    ours = add_leading_dimensions(join_parts(checkpoint.state, checkpoint.heads, checkpoint.momentum))
    kept = ("momentum.model.vision.", "momentum.model.text.", "momentum.model.projection.")
    ours = {key: value for key, value in ours.items() if not key.startswith("momentum.") or key.startswith(kept)}
    ours.pop("momentum.model.projection.temperature", None)
    queue = "objectives.itc.image_queue.embed" in ours
    if not queue:
        ours.pop("model.projection.temperature", None)
    state = to_theirs(ours, TABLE + _QUEUE[queue and join_queue(ours, "BLIP")])
    for stem in ("text_encoder", "text_encoder_m", "text_decoder.bert"):
        if f"{stem}.embeddings.word_embeddings.weight" in state:
            length = len(state[f"{stem}.embeddings.position_embeddings.weight"])
            state[f"{stem}.embeddings.position_ids"] = torch.arange(length)[None]
    if f"{_PREDICTIONS}.bias" in state:
        state[f"{_PREDICTIONS}.decoder.weight"] = state["text_decoder.bert.embeddings.word_embeddings.weight"]
        state[f"{_PREDICTIONS}.decoder.bias"] = state[f"{_PREDICTIONS}.bias"]
    torch.save({"model": state}, path)
