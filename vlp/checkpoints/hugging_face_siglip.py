"""Hugging Face folders of SigLIP: SiglipModel, and SiglipVisionModel or SiglipTextModel alone, with SigLIP 2 of fixed resolution.

SigLIP 2 of fixed resolution is stored as a SiglipModel with Gemma's tokenizer; its NaFlex variant (model_type siglip2), which
takes images of any shape as sequences of patches, is refused by name. The text tower sees its padding, so the padding's id is
part of the model: it is the tokenizer's where the folder has one, since the configs of SigLIP 2 name another.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import save_file

from vlp.checkpoints import hugging_face, preprocessing, tensor_files
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import KeyRow, State, to_ours, to_theirs
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object

_CONFIGS: dict[str, Any] = {
    "siglip": transformers.SiglipConfig,
    "siglip_vision_model": transformers.SiglipVisionConfig,
    "siglip_text_model": transformers.SiglipTextConfig,
}
_HEAD = "vision_model.head"
TABLE = [
    KeyRow("vision.positions", "vision_model.embeddings.position_embedding.weight"),
    KeyRow("vision.patches.*", "vision_model.embeddings.patch_embedding.*"),
    *hugging_face.block_rows("vision", "vision_model"),
    KeyRow("vision.norm_post.*", "vision_model.post_layernorm.*"),
    KeyRow("vision.attention_pool.query", f"{_HEAD}.probe"),
    KeyRow("vision.attention_pool.attention.*", f"{_HEAD}.attention.*"),
    KeyRow("vision.attention_pool.norm.*", f"{_HEAD}.layernorm.*"),
    KeyRow("vision.attention_pool.mlp.*", f"{_HEAD}.mlp.*"),
    *hugging_face.text_rows(),
    KeyRow("projection.text.*", "text_model.head.*"),
    KeyRow("projection.logit_scale", "logit_scale"),
    KeyRow("projection.logit_bias", "logit_bias"),
    *(KeyRow(None, f"{tower}_model.embeddings.position_ids") for tower in ("vision", "text")),
]
_LEADING = {"vision.attention_pool.query", "projection.logit_scale", "projection.logit_bias"}  # with one dimension more


def matches(folder: Path) -> bool:
    return str(read_json_object(folder / "config.json").get("model_type")).startswith("siglip")


def read(folder: Path, architecture: dict[str, Any]) -> Checkpoint:
    hugging_face.refuse_unknown_options(architecture)
    file_config = read_json_object(folder / "config.json")
    kind = file_config["model_type"]
    if kind.startswith("siglip2"):
        raise UserError(
            f"{folder} holds a {kind}, SigLIP 2's NaFlex variant, whose images have any shape: vlp reads SigLIP 2 of fixed "
            "resolution, such as google/siglip2-base-patch16-224"
        )
    if kind not in _CONFIGS:
        raise UserError(f"{folder} holds a {kind!r} model; vlp reads {', '.join(_CONFIGS)}")
    config = _CONFIGS[kind](**file_config)  # fills in what the file leaves to the defaults
    vision: Any = {"siglip": getattr(config, "vision_config", None), "siglip_vision_model": config}.get(kind)
    text: Any = {"siglip": getattr(config, "text_config", None), "siglip_text_model": config}.get(kind)
    state = hugging_face.with_tower_prefix(hugging_face.read_weights(folder), kind)
    ours = to_ours(state, TABLE)
    for key in _LEADING & ours.keys():
        ours[key] = ours[key].squeeze(0)
    pad_id = hugging_face.tokenizer_pad_id(folder)
    model: dict[str, Any] = {"_target_": "vlp.models.vlm.VisionLanguageModel"}
    if vision is not None:
        model["vision"] = _vision_tower(vision)
    if text is not None:
        default = text.pad_token_id if text.pad_token_id is not None else 1
        model["text"] = _text_tower(text, default if pad_id is None else pad_id)
    if vision is not None and text is not None:
        model["projection"] = hugging_face.linear_projection(vision.hidden_size, text.hidden_size, text.projection_size)
        bias = float(ours["projection.logit_bias"])
        model["projection"] |= {"project_image": False, "text_bias": True, "logit_bias": bias}
    elif vision is not None:
        model["projection"] = hugging_face.single_projection("image", vision.hidden_size, None)
    else:
        model["projection"] = hugging_face.single_projection("text", text.hidden_size, text.projection_size, bias=True)
    transform = None
    if vision is not None:
        transform = preprocessing.hugging_face_transform(vision.image_size, "squash")
    checkpoint = Checkpoint(
        config={"model": model, "transform": transform}, state=ours, vocabulary=folder, antialias=False
    )
    preprocessing.add_preprocessing(checkpoint.config, folder)
    return checkpoint


def _vision_tower(config: Any) -> dict[str, Any]:
    if not config.vision_use_head:
        raise UserError("this SigLIP has no pooling head (vision_use_head=false), so it has no feature of an image")
    return {
        "_target_": "vlp.models.vision.clip_vit.ClipVit",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        **hugging_face.tower(config, "SigLIP"),
        "pool": "attention",
        "pool_mlp_ratio": config.intermediate_size / config.hidden_size,
        "class_token": False,
        "pre_norm": False,
        "norm_before_pool": True,
        "norm_states": True,
        "patch_bias": True,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }


def _text_tower(config: Any, pad_id: int) -> dict[str, Any]:
    return {
        "_target_": "vlp.models.text.clip_text.ClipText",
        "vocabulary_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        **hugging_face.tower(config, "SigLIP"),
        "pool": "last",
        "causal": False,
        "pad_id": pad_id,
    }


def write(config: dict[str, Any], state: State, folder: Path) -> None:
    """A SiglipModel; what transformers could not run as the same model is refused."""
    model = config["model"]
    vision, text, projection = (model.get(name) or {} for name in ("vision", "text", "projection"))
    needed: dict[str, dict[str, Any]] = {
        "vision": {
            "class_token": False,
            "pre_norm": False,
            "norm_before_pool": True,
            "patch_bias": True,
            "pool_queries": 1,
        },
        "text": {"pool": "last", "causal": False},
        "projection": {"project_image": False, "text_bias": True},
    }
    defaults = {"pool_queries": 1, "project_image": True, "causal": True, "class_token": True, "pre_norm": True}
    wrong = [
        f"model.{part}.{key}={found}"
        for part, values in needed.items()
        for key, value in values.items()
        if (found := (model.get(part) or {}).get(key, defaults.get(key))) != value
    ]
    if wrong or projection.get("logit_bias") is None:
        raise UserError(
            f"transformers' SiglipModel has another form than {', '.join(wrong) or 'a model without logit_bias'}"
        )
    dtypes = {value.dtype for value in state.values()}
    ours = dict(state if len(dtypes) == 1 else tensor_files.to_float32(state))
    for key in _LEADING:
        ours[key] = ours[key].unsqueeze(0)
    theirs = to_theirs(ours, TABLE)
    file_config = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "dtype": str(theirs["logit_scale"].dtype).removeprefix("torch."),
        "vision_config": {
            **hugging_face.tower_json(vision, "vision_model", theirs),
            "model_type": "siglip_vision_model",
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        "text_config": {
            **hugging_face.tower_json(text, "text_model", theirs),
            "model_type": "siglip_text_model",
            "vocab_size": text["vocabulary_size"],
            "max_position_embeddings": text["context_length"],
            "projection_size": projection["width"],
            "pad_token_id": text.get("pad_id", 0),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(theirs, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(file_config, indent=2) + "\n")
    preprocessing.write_preprocessing(folder, "SiglipImageProcessor", config)
