"""Hugging Face folders of BLIP (`config.json` with model_type blip, and weights) ↔ vlp's config and state.

transformers leaves the tied decoder out of the file, gives the vision tower's norms the epsilon of its config (1e-5 unless
told, where the original has 1e-6), smooths no labels unless asked to, and feeds questions with their own [CLS], not [ENC].
Strings are cleaned and cut as the original was trained on them (lower case, no punctuation, 35 tokens); transformers' own
processor leaves them as they are, which gives other numbers for "A dog." and the same for "a dog".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import save_file

from vlp.checkpoints import blip, hugging_face, preprocessing
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import KeyRow, to_ours, to_theirs
from vlp.checkpoints.salesforce import add_leading_dimensions, check_tied, drop_leading_dimensions
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object

_LAYER = "vision_model.encoder.layers.{}"
TABLE = [
    KeyRow("model.vision.class_token", "vision_model.embeddings.class_embedding"),
    KeyRow("model.vision.positions", "vision_model.embeddings.position_embedding"),
    KeyRow("model.vision.patches.*", "vision_model.embeddings.patch_embedding.*"),
    KeyRow("model.vision.blocks.{}.norm1.*", f"{_LAYER}.layer_norm1.*"),
    KeyRow("model.vision.blocks.{}.attention.qkv.*", f"{_LAYER}.self_attn.qkv.*"),
    KeyRow("model.vision.blocks.{}.attention.out.*", f"{_LAYER}.self_attn.projection.*"),
    KeyRow("model.vision.blocks.{}.norm2.*", f"{_LAYER}.layer_norm2.*"),
    KeyRow("model.vision.blocks.{}.mlp.*", f"{_LAYER}.mlp.*"),
    KeyRow("model.vision.norm_post.*", "vision_model.post_layernorm.*"),
    *blip.text_rows(),
    *blip.DECODER,
]
KINDS = ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval")


def matches(folder: Path) -> bool:
    return read_json_object(folder / "config.json").get("model_type") == "blip"


def read(folder: Path, architecture: dict[str, Any]) -> Checkpoint:
    hugging_face.refuse_unknown_options(architecture)
    file_config = read_json_object(folder / "config.json")
    kind = (file_config.get("architectures") or ["a BLIP of no known kind"])[0]
    if kind not in KINDS:
        raise UserError(f"{folder} holds {kind}; vlp reads {', '.join(KINDS)}")
    config: Any = transformers.BlipConfig(**file_config)  # fills in what the file leaves to the defaults
    vision, text = config.vision_config, config.text_config
    state = hugging_face.read_weights(folder)
    check_tied(state, *blip.TIED)
    checkpoint = blip.build_checkpoint(
        drop_leading_dimensions(to_ours(state, TABLE)),
        {
            "vision_heads": vision.num_attention_heads,
            "text_heads": text.num_attention_heads,
            "image_size": vision.image_size,
            "vision_activation": hugging_face.activation_name(vision.hidden_act, "BLIP"),
            "activation": hugging_face.activation_name(text.hidden_act, "BLIP"),
            "norm_eps": vision.layer_norm_eps,
            "text_norm_eps": text.layer_norm_eps,
            "dropout": text.hidden_dropout_prob,
            "question_start_id": None,
            "start_id": text.bos_token_id,
            "label_smoothing": text.label_smoothing,
        },
        folder,
    )
    preprocessing.add_preprocessing(checkpoint.config, folder)
    return checkpoint


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Caption, VQA and matching models; what transformers' BLIP has no place for is refused."""
    model = checkpoint.config["model"]
    parts = "+".join(name for name in ("text", "projection", "decoder") if model.get(name))
    kinds = dict(zip(("decoder", "text+decoder", "text+projection"), KINDS, strict=True))
    if parts not in kinds:
        raise UserError(f"transformers has no BLIP of {parts}: it has {', '.join(kinds)}")
    ours = {f"model.{key}": value for key, value in checkpoint.state.items()}
    ours |= {f"objectives.{key}": value for key, value in checkpoint.heads.items() if key.startswith("itm.")}
    temperature = ours.pop("model.projection.temperature", None)
    if temperature is not None and float(temperature) != 1:
        raise UserError(f"transformers' BLIP gives bare cosines; this model divides them by {float(temperature):.4g}")
    theirs = to_theirs(add_leading_dimensions(ours), TABLE)
    file_config = _config_json(checkpoint) | {"architectures": [kinds[parts]]}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.contiguous() for key, value in theirs.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(file_config, indent=2) + "\n")
    preprocessing.write_preprocessing(folder, "BlipImageProcessor", checkpoint.config)


def _config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    model = checkpoint.config["model"]
    vision, text = model["vision"], model.get("text") or model["decoder"]
    names = {ours: theirs for theirs, ours in hugging_face.ACTIVATIONS.items()}
    objectives = checkpoint.config.get("objectives") or {}
    smoothing = max((node.get("label_smoothing", 0.0) for node in objectives.values()), default=0.0)
    joint = (model.get("projection") or {}).get("width", 256)
    return {
        "model_type": "blip",
        "dtype": "float32",
        "projection_dim": joint,
        "image_text_hidden_size": joint,
        "vision_config": {
            "model_type": "blip_vision_model",
            "hidden_size": vision["width"],
            "intermediate_size": round(vision["width"] * vision["mlp_ratio"]),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["heads"] or vision["width"] // 64,
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_act": names[vision["activation"]],
            "layer_norm_eps": vision["norm_eps"],
        },
        "text_config": {
            "model_type": "blip_text_model",
            "vocab_size": text["vocabulary_size"],
            "hidden_size": text["width"],
            "encoder_hidden_size": vision["width"],
            "intermediate_size": text["hidden_width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"] or text["width"] // 64,
            "max_position_embeddings": text["context_length"],
            "hidden_act": names[text["activation"]],
            "layer_norm_eps": text["norm_eps"],
            "hidden_dropout_prob": text["dropout"],
            "attention_probs_dropout_prob": text["dropout"],
            "bos_token_id": (model.get("decoder") or {}).get("start_id", text["vocabulary_size"] - 2),
            "label_smoothing": smoothing,
        },
    }
