"""ALBEF's checkpoints (Li et al., arXiv:2107.07651; salesforce/ALBEF, BSD-3-Clause) ↔ vlp's config and tensors.

A file holds `{'model': state, …}`, of pre-training, retrieval, VQA, visual entailment or NLVR2, a momentum copy (`…_m`) and
queues included. Its one BERT is our text tower (the layers without cross-attention) and our fusion (the others). The
pre-training file says `text_encoder.bert.`, the fine-tuned ones `text_encoder.`; NLVR2's looks at two images in turn.
Sizes are in the shapes; numbers of heads are arguments, or in `config_bert.json` and `fixture_vision.json` beside.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp.build import ALLOWED_IN_FILES, build
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

_DISTILLATION = 0.4  # of the published recipes
_ENTAILMENT = ("contradiction", "neutral", "entailment")  # the order of ALBEF's head of visual entailment
_OBJECTIVES = {
    "itc": "vlp.objectives.itc.ITC", "itm": "vlp.objectives.itm.ITM", "mlm": "vlp.objectives.mlm.MLM",
    "vqa": "vlp.tasks.vqa.VQA", "visual_entailment": "vlp.tasks.visual_entailment.VisualEntailment",
    "nlvr2": "vlp.tasks.nlvr2.NLVR2",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What distinguishes the five kinds of files.  classifier: the objective that owns `cls_head`."""

    prefix: str  # "bert." in pre-training
    text_layers: int
    fusion_layers: int
    decoder_layers: int
    momentum: bool
    queue: bool
    image_ids: bool  # the queue knows which image a feature is of
    itm: bool
    mlm: bool
    classifier: str | None
    images: int


def matches(state: Mapping[str, object]) -> bool:
    cross = [key for key in state if key.startswith("text_encoder.") and "crossattention.self.query.weight" in key]
    return "visual_encoder.pos_embed" in state and bool(cross) and not any(".layer.0.cross" in key for key in cross)


def detect_variant(state: Mapping[str, Tensor]) -> Variant:
    """NLVR2's file is recognised by layers that share their keys in pairs, one of a pair for each image."""
    prefix = "bert." if "text_encoder.bert.embeddings.word_embeddings.weight" in state else ""
    stem = f"text_encoder.{prefix}encoder.layer."
    count = count_layers(state, stem)
    fusion = sum(f"{stem}{index}.crossattention.self.query.weight" in state for index in range(count))
    keys = [state[f"{stem}{index}.crossattention.self.key.weight"] for index in range(count - fusion, count)]
    pairs = fusion % 2 == 0 and all(torch.equal(*keys[index : index + 2]) for index in range(0, fusion, 2))
    classifier = "nlvr2" if pairs else "visual_entailment"
    return Variant(
        prefix=prefix,
        text_layers=count - fusion,
        fusion_layers=fusion,
        decoder_layers=count_layers(state, "text_decoder.bert.encoder.layer."),
        momentum="visual_encoder_m.pos_embed" in state,
        queue="image_queue" in state,
        image_ids="idx_queue" in state,
        itm="itm_head.weight" in state,
        mlm="text_encoder.cls.predictions.bias" in state,
        classifier=classifier if "cls_head.0.weight" in state else None,
        images=2 if pairs else 1,
    )


def key_table(variant: Variant) -> list[KeyRow]:
    rows = _tower_rows(variant, "", "")
    if variant.momentum:
        rows += _tower_rows(variant, "momentum.", "_m")
    if variant.queue:
        for name in ("image", "text"):
            rows.append(KeyRow(f"objectives.itc.{name}_queue.embed", f"{name}_queue", transpose=True))
        rows += [KeyRow("pointer", "queue_ptr"), KeyRow("id", "idx_queue")]
    if variant.itm:
        rows.append(KeyRow("objectives.itm.head.*", "itm_head.*"))
    return rows


def _tower_rows(variant: Variant, ours: str, momentum_prefix: str) -> list[KeyRow]:
    model, objectives, text = f"{ours}model", f"{ours}objectives", f"text_encoder{momentum_prefix}"
    rows = [
        KeyRow(f"{model}.vision.{own}", f"visual_encoder{momentum_prefix}.{other}") for own, other in VISION.items()
    ]
    rows += bert_keys.embedding_rows(f"{model}.text", f"{text}.{variant.prefix}".rstrip("."))
    for index in range(variant.text_layers + variant.fusion_layers):
        cross = index >= variant.text_layers
        own = f"fusion.blocks.{index - variant.text_layers}" if cross else f"text.blocks.{index}"
        rows += bert_keys.layer_rows(f"{model}.{own}", f"{text}.{variant.prefix}encoder.layer.{index}", cross=cross)
    for own, other in (("image", "vision"), ("text", "text")):
        rows.append(KeyRow(f"{model}.projection.{own}.*", f"{other}_proj{momentum_prefix}.*"))
    if not momentum_prefix:
        rows.append(KeyRow(f"{model}.projection.temperature", "temp"))
    if variant.mlm:
        rows += bert_keys.language_head_rows(f"{objectives}.mlm.head", f"{text}.cls.predictions")
    if variant.decoder_layers:
        decoder = f"text_decoder{momentum_prefix}"
        rows += bert_keys.embedding_rows(f"{model}.decoder", f"{decoder}.bert")
        for index in range(variant.decoder_layers):
            rows += bert_keys.layer_rows(
                f"{model}.decoder.blocks.{index}", f"{decoder}.bert.encoder.layer.{index}", cross=True
            )
        rows += bert_keys.language_head_rows(f"{model}.decoder.head", f"{decoder}.cls.predictions")
    if variant.classifier:
        rows.append(KeyRow(f"{objectives}.{variant.classifier}.head.*", f"cls_head{momentum_prefix}.*"))
    return rows


def read(state: State, path: Path, architecture: dict[str, Any]) -> Checkpoint:
    _check_tied(state)
    variant = detect_variant(state)
    ours = drop_leading_dimensions(to_ours(state, key_table(variant)))
    if variant.queue:
        split_queue(ours)
    config = {
        "model": _model_config(ours, variant, path, architecture),
        "objectives": _objective_configs(ours, variant),
    }
    vision = config["model"]["vision"]
    model, heads, momentum = split_parts(ours)
    if variant.momentum:  # what ALBEF keeps no momentum copy of moves with the model
        for key, value in join_parts(model, heads, {}).items():
            if "_queue." not in key:
                momentum.setdefault(key, value)
    vocabulary = find_beside(path, "vocab.txt")
    return Checkpoint(
        config=config
        | {
            "transform": eval_transform(vision["image_size"], "squash", rgb="first"),
            "tokenizer": {
                "_target_": "vlp.tokenizers.wordpiece.WordPieceTokenizer",
                "add_end": False,
                "cleaning": "albef",
                "answer_suffix": "[sep]",  # ALBEF appends "[SEP]" as text, and its tokenizer takes it for a word in brackets
                "context_length": 30 if variant.itm else config["model"]["text"]["context_length"],
            },
        },
        state=model,
        heads=heads,
        momentum=momentum,
        vocabulary=vocabulary.parent if vocabulary else None,
        antialias=False,
    )


def _check_tied(state: State) -> None:
    for stem in ("text_encoder", "text_encoder_m", "text_decoder", "text_decoder_m"):
        decoder, own = f"{stem}.cls.predictions.decoder.weight", f"{stem}.bert.embeddings.word_embeddings.weight"
        check_tied(state, decoder, own, "ALBEF")


def _model_config(ours: State, variant: Variant, path: Path, architecture: dict[str, Any]) -> dict[str, Any]:
    shape = {key.removeprefix("model."): tuple(value.shape) for key, value in ours.items()}
    file_configs = {name: read_json_object(file) if file else {} for name, file in _files_beside(path).items()}
    vision_width, _, patch_size, _ = shape["vision.patches.weight"]
    vocabulary_size, width = shape["text.embedding.weight"]
    common = {
        "heads": architecture.get("text_heads", file_configs["bert"].get("num_attention_heads")),
        "hidden_width": shape["text.blocks.0.mlp.fc1.bias"][0],
        "activation": architecture.get("activation", file_configs["bert"].get("hidden_act", "gelu")),
        "width": width,
        "norm_eps": file_configs["bert"].get("layer_norm_eps", 1e-12),
    }
    embedding = {"vocabulary_size": vocabulary_size, "context_length": shape["text.positions.weight"][0]}
    vision = {
        "_target_": "vlp.models.vision.clip_vit.ClipVit",
        "image_size": patch_size * math.isqrt(shape["vision.positions"][0] - 1),
        "patch_size": patch_size,
        "width": vision_width,
        "layers": count_layers(ours, "model.vision.blocks."),
        "heads": architecture.get("vision_heads", file_configs["vision"].get("num_heads")),
        "mlp_ratio": shape["vision.blocks.0.mlp.fc1.bias"][0] / vision_width,
        "activation": "gelu", "norm_eps": 1e-6, "pre_norm": False, "patch_bias": True, "norm_states": True,
    }  # fmt: skip
    text = common | embedding | {"_target_": "vlp.models.text.bert.BertText", "layers": variant.text_layers}
    text["token_types"] = shape["text.token_types.weight"][0]
    model = {"_target_": "vlp.models.vlm.VisionLanguageModel", "vision": vision, "text": text}
    model["fusion"] = common | {
        "_target_": "vlp.models.fusion.cross.CrossFusion",
        "image_width": vision_width,
        "text_width": width,
        "layers": variant.fusion_layers,
        "images": variant.images,
    }
    if "projection.image.weight" in shape:
        model["projection"] = {
            "_target_": "vlp.models.projection.linear.LinearProjection", "image_width": vision_width, "text_width": width,
            "width": shape["projection.image.weight"][0], "image_bias": True, "text_bias": True, "divisor": True,
        }  # fmt: skip
    if variant.decoder_layers:
        model["decoder"] = common | embedding | {
            "_target_": "vlp.models.decoder.causal.CausalDecoder", "layers": variant.decoder_layers,
            "memory_width": width, "token_types": shape["decoder.token_types.weight"][0],
        }  # fmt: skip
    return model


def _files_beside(path: Path) -> dict[str, Path | None]:
    return {"bert": find_beside(path, "config_bert.json"), "vision": find_beside(path, "fixture_vision.json")}


def _objective_configs(ours: State, variant: Variant) -> dict[str, dict[str, Any]]:
    width = ours["model.text.embedding.weight"].shape[1]
    soft = {"distillation": _DISTILLATION if variant.momentum else 0.0}
    nodes: dict[str, dict[str, Any]] = {}
    if variant.queue:
        size, joint = ours["objectives.itc.image_queue.embed"].shape
        nodes["itc"] = {"queue_size": size, "width": joint, **soft}
    if variant.itm:
        nodes["itm"] = {"width": width, "momentum": variant.momentum}
    if variant.mlm:
        nodes["mlm"] = {"width": width, "vocabulary_size": len(ours["objectives.mlm.head.bias"]), **soft}
    if variant.decoder_layers:
        nodes["vqa"] = {"first_token_twice": True, **soft}
    if variant.classifier == "visual_entailment":
        count = len(ours["objectives.visual_entailment.head.2.bias"])
        names = list(_ENTAILMENT) if count == len(_ENTAILMENT) else [str(index) for index in range(count)]
        nodes["visual_entailment"] = {"width": width, "classes": names, **soft}
    if variant.classifier == "nlvr2":
        nodes["nlvr2"] = {"width": width, "head": "albef", **soft}
    return {name: {"_target_": _OBJECTIVES[name]} | node for name, node in nodes.items()}


def write(checkpoint: Checkpoint, path: Path) -> None:
    """As ALBEF's scripts save it, but for the optimiser. What its code would not run as the same model is refused."""
    ours = add_leading_dimensions(join_parts(checkpoint.state, checkpoint.heads, checkpoint.momentum))
    if node := (checkpoint.config.get("objectives") or {}).get("visual_entailment"):
        ours = _with_entailment_order(ours, build(node, allow=ALLOWED_IN_FILES).classes)
    variant = _variant_from_config(ours, checkpoint.config["model"])
    ours.pop("momentum.model.projection.temperature", None)
    ours = {key: value for key, value in ours.items() if not key.startswith("momentum.objectives.itm.")}
    if variant.queue:
        join_queue(ours, "ALBEF")
    state = to_theirs(ours, key_table(variant))
    for stem in ("text_encoder", "text_encoder_m", "text_decoder", "text_decoder_m"):
        words = next((k for k in state if k.startswith(f"{stem}.") and k.endswith("word_embeddings.weight")), None)
        if words is None:
            continue
        length = len(state[words.replace("word_embeddings", "position_embeddings")])
        state[words.replace("word_embeddings.weight", "position_ids")] = torch.arange(length)[None]
        if f"{stem}.cls.predictions.bias" in state:
            state[f"{stem}.cls.predictions.decoder.weight"] = state[words]
            state[f"{stem}.cls.predictions.decoder.bias"] = state[f"{stem}.cls.predictions.bias"]
    torch.save({"model": state}, path)


def _with_entailment_order(state: State, classes: Sequence[str]) -> State:
    """The head of visual entailment with its outputs in ALBEF's order.  classes: their order in `state`; other names than
    ALBEF's stay where they are."""
    if set(classes) != set(_ENTAILMENT):
        return state
    order = [classes.index(name) for name in _ENTAILMENT]
    rows = re.compile(r"(momentum\.)?objectives\.visual_entailment\.head\.2\.(weight|bias)")
    return {key: value[order] if rows.fullmatch(key) else value for key, value in state.items()}


def _variant_from_config(ours: State, model: dict[str, Any]) -> Variant:
    targets = {"vision": ".ClipVit", "text": ".BertText", "fusion": ".CrossFusion"}
    for name, target in targets.items():
        if not (model.get(name) or {}).get("_target_", "").endswith(target):
            raise UserError(f"ALBEF's format holds only {target[1:]} as {name}, not {model.get(name)}")
    mlm = "objectives.mlm.head.bias" in ours
    ids = ours.get("objectives.itc.image_queue.id")
    heads = {key.split(".")[1] for key in ours if key.startswith("objectives.")}
    return Variant(
        prefix="bert." if mlm else "",
        text_layers=count_layers(ours, "model.text.blocks."),
        fusion_layers=count_layers(ours, "model.fusion.blocks."),
        decoder_layers=count_layers(ours, "model.decoder.blocks."),
        momentum="momentum.model.vision.positions" in ours,
        queue=ids is not None,
        image_ids=ids is not None and bool((ids != -1).any()),
        itm="itm" in heads,
        mlm=mlm,
        classifier=next((name for name in ("visual_entailment", "nlvr2") if name in heads), None),
        images=model["fusion"].get("images", 1),
    )
