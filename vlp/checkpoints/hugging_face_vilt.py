"""Hugging Face folders of ViLT (`config.json` with model_type vilt, and weights) ↔ vlp's config and state.

transformers gives every norm but the classifiers' the epsilon of its config (1e-12, where the original's blocks have
1e-6), and ties the decoder of masked language modelling to the word embeddings unless the file has one of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from vlp.checkpoints import hugging_face, preprocessing, vilt
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import KeyRow, to_ours, to_theirs
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object

_LAYER = "vilt.encoder.layer.{}"
_TEXT = "vilt.embeddings.text_embeddings"
TABLE = [
    KeyRow("text.embedding.weight", f"{_TEXT}.word_embeddings.weight"),
    KeyRow("text.positions.weight", f"{_TEXT}.position_embeddings.weight"),
    KeyRow("text.token_types.weight", f"{_TEXT}.token_type_embeddings.weight"),
    KeyRow("text.norm.*", f"{_TEXT}.LayerNorm.*"),
    KeyRow(None, f"{_TEXT}.position_ids"),
    KeyRow("vision.class_token", "vilt.embeddings.cls_token"),
    KeyRow("vision.positions", "vilt.embeddings.position_embeddings"),
    KeyRow("vision.patches.*", "vilt.embeddings.patch_embeddings.projection.*"),
    KeyRow("fusion.types.weight", "vilt.embeddings.token_type_embeddings.weight"),
    KeyRow("fusion.blocks.{}.norm1.*", f"{_LAYER}.layernorm_before.*"),
    *(
        KeyRow(
            f"fusion.blocks.{{}}.attention.qkv.{leaf}",
            tuple(f"{_LAYER}.attention.attention.{part}.{leaf}" for part in ("query", "key", "value")),
        )
        for leaf in ("weight", "bias")
    ),
    KeyRow("fusion.blocks.{}.attention.out.*", f"{_LAYER}.attention.output.dense.*"),
    KeyRow("fusion.blocks.{}.norm2.*", f"{_LAYER}.layernorm_after.*"),
    KeyRow("fusion.blocks.{}.mlp.fc1.*", f"{_LAYER}.intermediate.dense.*"),
    KeyRow("fusion.blocks.{}.mlp.fc2.*", f"{_LAYER}.output.dense.*"),
    KeyRow("fusion.norm.*", "vilt.layernorm.*"),
    KeyRow("fusion.pooler.*", "vilt.pooler.dense.*"),
]
_LANGUAGE = [
    KeyRow("mlm.head.transform.*", "mlm_score.transform.dense.*"),
    KeyRow("mlm.head.norm.*", "mlm_score.transform.LayerNorm.*"),
    KeyRow("mlm.head.decoder.weight", "mlm_score.decoder.weight"),
    KeyRow("mlm.head.bias", "mlm_score.decoder.bias"),
    KeyRow("mlm.head.bias", "mlm_score.bias"),  # before transformers 4.40
]
HEADS: dict[str, list[KeyRow]] = {
    "ViltModel": [],
    "ViltForMaskedLM": _LANGUAGE,
    "ViltForQuestionAnswering": [KeyRow("vqa.classifier.*", "classifier.*")],
    "ViltForImagesAndTextClassification": [KeyRow("nlvr2.head.*", "classifier.*")],
    "ViltForImageAndTextRetrieval": [KeyRow("irtr.head.*", "rank_output.*")],
}


_KINDS = {
    "mlm": "ViltForMaskedLM", "vqa": "ViltForQuestionAnswering", "nlvr2": "ViltForImagesAndTextClassification",
    "irtr": "ViltForImageAndTextRetrieval",
}  # fmt: skip


def matches(folder: Path) -> bool:
    return read_json_object(folder / "config.json").get("model_type") == "vilt"


def read(folder: Path, architecture: dict[str, Any]) -> Checkpoint:
    hugging_face.refuse_unknown_options(architecture)
    file_config = read_json_object(folder / "config.json")
    config: Any = transformers.ViltConfig(**file_config)  # fills in what the file leaves to the defaults
    kind = (file_config.get("architectures") or ["ViltModel"])[0]
    if kind not in HEADS:
        raise UserError(f"{folder} holds a {kind}; vlp reads {', '.join(HEADS)}")
    if not config.qkv_bias:
        raise UserError(f"{folder} holds a ViLT without biases in its attention (qkv_bias), which vlp has not")
    state = hugging_face.read_weights(folder)
    if not any(key.startswith("vilt.") for key in state):  # ViltModel by itself
        state = {f"vilt.{key}": value for key, value in state.items()}
    decoder, words = (state.get(key) for key in ("mlm_score.decoder.weight", f"{_TEXT}.word_embeddings.weight"))
    if decoder is not None and words is not None and torch.equal(decoder, words):
        del state[
            "mlm_score.decoder.weight"
        ]  # tied; transformers 5 ties what is equal or not stored, whatever the config says
    checkpoint = vilt.build_checkpoint(
        to_ours(vilt.drop_leading_dimensions(state), [*TABLE, *HEADS[kind]]),
        folder,
        heads=config.num_attention_heads,
        max_patches=config.max_image_length if config.max_image_length > 0 else None,
        dropout=config.hidden_dropout_prob,
        activation=hugging_face.activation_name(config.hidden_act, "ViLT"),
        norm_eps=config.layer_norm_eps,
        text_norm_eps=config.layer_norm_eps,
    )
    preprocessing.add_preprocessing(checkpoint.config, folder)
    return checkpoint


def write(checkpoint: Checkpoint, folder: Path, *, head: str | None = None) -> None:
    """A folder holds one head at most.  head: which one, of several; None = the only one. transformers has one epsilon for
    all norms: the fusion's is written.
    """
    model, objectives = checkpoint.config["model"], checkpoint.config.get("objectives") or {}
    names = [head] if head is not None else sorted({key.partition(".")[0] for key in checkpoint.heads})
    if len(names) > 1 or not set(names) <= {*_KINDS}:
        raise UserError(
            f"a Hugging Face ViLT holds one head of {', '.join(_KINDS)}, but here are {', '.join(names)}: give head="
        )
    kind = _KINDS[names[0]] if names else "ViltModel"
    heads = {
        key: value for key, value in checkpoint.heads.items() if key.startswith(tuple(f"{name}." for name in names))
    }
    theirs = vilt.add_leading_dimensions(
        to_theirs({**checkpoint.state, **(heads if names else {})}, [*TABLE, *HEADS[kind]])
    )
    if not names:
        theirs = {key.removeprefix("vilt."): value for key, value in theirs.items()}
    file_config = _config_json(model, kind) | {"tie_word_embeddings": "mlm.head.decoder.weight" not in heads}
    if kind == "ViltForQuestionAnswering":
        file_config["id2label"] = {str(number): name for number, name in enumerate(objectives["vqa"]["answers"])}
        file_config["label2id"] = {name: number for number, name in enumerate(objectives["vqa"]["answers"])}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.contiguous() for key, value in theirs.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(file_config, indent=2) + "\n")
    preprocessing.write_preprocessing(folder, "ViltImageProcessor", checkpoint.config)


def _config_json(model: dict[str, Any], kind: str) -> dict[str, Any]:
    vision, text, fusion = model["vision"], model["text"], model["fusion"]
    images = fusion.get("images", 1)
    names = {ours: theirs for theirs, ours in hugging_face.ACTIVATIONS.items()}
    return {
        "architectures": [kind],
        "model_type": "vilt",
        "dtype": "float32",
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "max_image_length": vision.get("max_patches") or -1,
        "vocab_size": text["vocabulary_size"],
        "max_position_embeddings": text["context_length"],
        "type_vocab_size": text["token_types"],
        "modality_type_vocab_size": 1 + images,
        "num_images": images if images > 1 else -1,
        "hidden_size": fusion["width"],
        "num_hidden_layers": fusion["layers"],
        "num_attention_heads": fusion["heads"] or fusion["width"] // 64,
        "intermediate_size": round(fusion["width"] * fusion["mlp_ratio"]),
        "hidden_act": names[fusion["activation"]],
        "hidden_dropout_prob": fusion["dropout"],
        "layer_norm_eps": fusion["norm_eps"],
    }
