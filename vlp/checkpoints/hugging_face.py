"""Hugging Face folders (`config.json` and weights): CLIPModel, and VisionTextDualEncoderModel of any two towers.

CLIPModel becomes our own towers. The two towers of a dual encoder stay transformers' own, and transformers itself reads
and writes their files, as it knows its keys of all versions. Text is pooled at the first `eos_token_id`; a CLIP with
the id 2 is from before that rule and is pooled at the highest id.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import save_file

from vlp.checkpoints import preprocessing, tensor_files
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import KeyRow, State, to_ours, to_theirs
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object
from vlp.system.weight_folders import HUGGING_FACE, uses_safetensors

_CLIP_CONFIGS: dict[str, Any] = {
    "clip": transformers.CLIPConfig,
    "clip_vision_model": transformers.CLIPVisionConfig,
    "clip_text_model": transformers.CLIPTextConfig,
}
KINDS = (
    *_CLIP_CONFIGS,
    "vision-text-dual-encoder",
    "siglip",
    "vilt",
    "blip",
    "owlvit",
    "owlv2",
)  # the last ones elsewhere
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def block_rows(ours: str, theirs: str) -> list[KeyRow]:
    a, b = f"{ours}.blocks.{{}}.", f"{theirs}.encoder.layers.{{}}."
    return [
        KeyRow(f"{a}norm1.*", f"{b}layer_norm1.*"),
        KeyRow(f"{a}attention.qkv.weight", tuple(f"{b}self_attn.{x}_proj.weight" for x in "qkv")),
        KeyRow(f"{a}attention.qkv.bias", tuple(f"{b}self_attn.{x}_proj.bias" for x in "qkv")),
        KeyRow(f"{a}attention.out.*", f"{b}self_attn.out_proj.*"),
        KeyRow(f"{a}norm2.*", f"{b}layer_norm2.*"),
        KeyRow(f"{a}mlp.*", f"{b}mlp.*"),
    ]


def text_rows() -> list[KeyRow]:
    return [
        KeyRow("text.embedding.weight", "text_model.embeddings.token_embedding.weight"),
        KeyRow("text.positions", "text_model.embeddings.position_embedding.weight"),
        *block_rows("text", "text_model"),
        KeyRow("text.norm.*", "text_model.final_layer_norm.*"),
    ]


CLIP = [
    KeyRow("vision.class_token", "vision_model.embeddings.class_embedding"),
    KeyRow("vision.positions", "vision_model.embeddings.position_embedding.weight"),
    KeyRow("vision.patches.weight", "vision_model.embeddings.patch_embedding.weight"),
    KeyRow("vision.norm_pre.*", "vision_model.pre_layrnorm.*"),
    *block_rows("vision", "vision_model"),
    KeyRow("vision.norm_post.*", "vision_model.post_layernorm.*"),
    KeyRow("projection.image.weight", "visual_projection.weight"),
    *text_rows(),
    KeyRow("projection.text.weight", "text_projection.weight"),
    KeyRow("projection.logit_scale", "logit_scale"),
    KeyRow(None, "vision_model.embeddings.position_ids"),
    KeyRow(None, "text_model.embeddings.position_ids"),
]
DUAL = [
    KeyRow("vision.backbone.*", "vision_model.*"),
    KeyRow("text.backbone.*", "text_model.*"),
    KeyRow("projection.image.weight", "visual_projection.weight"),
    KeyRow("projection.text.weight", "text_projection.weight"),
    KeyRow("projection.logit_scale", "logit_scale"),
]


def read(folder: Path, architecture: dict[str, Any]) -> Checkpoint:
    """Without a file of its preprocessing only CLIP's own is known."""
    file_config = read_json_object(folder / "config.json")
    refuse_unknown_options(architecture)
    transform, kind = None, str(file_config.get("model_type"))
    if kind in _CLIP_CONFIGS:
        state = to_ours(with_tower_prefix(read_weights(folder), kind), CLIP)
        model = _clip_config(_CLIP_CONFIGS[kind](**file_config), kind, state)
        if "vision" in model:
            transform = preprocessing.hugging_face_transform(model["vision"]["image_size"])
    elif kind == "vision-text-dual-encoder":
        model, state = _read_dual(folder)
    else:
        raise UserError(f"{folder} holds a {kind!r} model; vlp reads {', '.join(KINDS)}")
    config = {"model": model, "transform": transform}
    preprocessing.add_preprocessing(config, folder)
    return Checkpoint(config=config, state=state, vocabulary=folder)


def with_tower_prefix(state: State, kind: str) -> State:
    """kind: the config's model_type. A file of one tower alone has the tower's name before its keys in some versions of
    transformers, and in others not."""
    tower = {"clip_vision_model": "vision_model.", "clip_text_model": "text_model."}.get(kind.replace("siglip", "clip"))
    if tower is None or any(key.startswith(tower) for key in state):
        return state
    return {f"{tower}{key}": value for key, value in state.items()}


def read_weights(folder: Path) -> State:
    return tensor_files.read_folder(folder, HUGGING_FACE)


def refuse_unknown_options(architecture: dict[str, Any]) -> None:
    if architecture:
        raise UserError(f"a Hugging Face folder says its architecture itself; {', '.join(architecture)} cannot be set")


def activation_name(name: str, model: str) -> str:
    """Our name of transformers' activation."""
    if name not in ACTIVATIONS:
        raise UserError(f"vlp's {model} has no activation {name}: it knows {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _clip_config(config: Any, kind: str, state: State) -> dict[str, Any]:
    """config: transformers', with all defaults.  kind: its model_type.  state: ours."""
    vision = None if kind == "clip_text_model" else getattr(config, "vision_config", config)
    text = None if kind == "clip_vision_model" else getattr(config, "text_config", config)
    model: dict[str, Any] = {"_target_": "vlp.models.vlm.VisionLanguageModel"}
    if vision is not None:
        model["vision"] = {
            "_target_": "vlp.models.vision.clip_vit.ClipVit",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            **tower(vision, "CLIP"),
        }
    if text is not None:
        legacy = text.eos_token_id == 2
        model["text"] = {
            "_target_": "vlp.models.text.clip_text.ClipText",
            "vocabulary_size": text.vocab_size,
            "context_length": text.max_position_embeddings,
            **tower(text, "CLIP"),
            "pool": "argmax" if legacy else "eot",
            "eot_id": None if legacy else text.eos_token_id,
            "pad_id": text.pad_token_id if text.pad_token_id is not None else 0,
        }
    if vision is not None and text is not None:
        model["projection"] = linear_projection(vision.hidden_size, text.hidden_size, config.projection_dim)
    else:
        name = "image" if text is None else "text"
        projected = f"projection.{name}.weight" in state
        model["projection"] = single_projection(name, config.hidden_size, config.projection_dim if projected else None)
    return model


def tower(side: Any, model: str) -> dict[str, Any]:
    """What both towers have.  side: transformers' config of one."""
    return {
        "width": side.hidden_size,
        "layers": side.num_hidden_layers,
        "heads": side.num_attention_heads,
        "mlp_ratio": side.intermediate_size / side.hidden_size,
        "activation": activation_name(side.hidden_act, model),
        "norm_eps": side.layer_norm_eps,
    }


def linear_projection(image_width: int, text_width: int, width: int) -> dict[str, Any]:
    target = "vlp.models.projection.linear.LinearProjection"
    return {"_target_": target, "image_width": image_width, "text_width": text_width, "width": width}


def single_projection(name: str, tower_width: int, width: int | None, **options: Any) -> dict[str, Any]:
    target = "vlp.models.projection.single_tower.SingleTowerProjection"
    return {"_target_": target, "tower": name, "tower_width": tower_width, "width": width, **options}


def tokenizer_pad_id(folder: Path) -> int | None:
    """Of the folder's tokenizer; None = it has none, or none that tells."""
    settings = (
        read_json_object(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    )
    token = settings.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    added = {value.get("content"): int(key) for key, value in settings.get("added_tokens_decoder", {}).items()}
    if token not in added and (folder / "tokenizer.json").is_file():
        content = read_json_object(folder / "tokenizer.json")
        added |= {entry["content"]: entry["id"] for entry in content.get("added_tokens", [])}
    return added.get(token)


def _read_dual(folder: Path) -> tuple[dict[str, Any], State]:
    reader: Any = transformers.VisionTextDualEncoderModel
    model, info = reader.from_pretrained(
        folder, output_loading_info=True, local_files_only=True, use_safetensors=uses_safetensors(folder)
    )
    wrong = {name: sorted(map(str, keys)) for name, keys in info.items() if keys and "key" in name}
    if wrong:
        raise UserError(f"{folder} does not fit its own config: {wrong}")
    vision, text = model.config.vision_config.to_dict(), model.config.text_config.to_dict()
    widths = model.visual_projection.in_features, model.text_projection.in_features
    config = {
        "_target_": "vlp.models.vlm.VisionLanguageModel",
        "vision": {
            "_target_": "vlp.models.vision.transformers.TransformersVision",
            "weights": False,
            "config": vision,
            "pool": "pooler",
            "image_size": vision.get("image_size"),
        },
        "text": {
            "_target_": "vlp.models.text.transformers.TransformersText",
            "weights": False,
            "config": text,
            "pool": "pooler",
        },
        "projection": linear_projection(*widths, model.config.projection_dim),
    }
    return config, to_ours(model.state_dict(), DUAL)


def write(config: dict[str, Any], state: State, folder: Path) -> None:
    model = config["model"]
    folder.mkdir(parents=True, exist_ok=True)
    projection = (model.get("projection") or {}).get("_target_", "none")
    if not projection.endswith(".LinearProjection"):
        raise UserError(f"transformers has no model of two towers with the projection {projection}")
    dual = [model[name]["_target_"].rpartition(".")[2] for name in ("vision", "text")]
    if dual == ["TransformersVision", "TransformersText"]:
        _write_dual(model, state, folder)
        return preprocessing.write_preprocessing(folder, "CLIPImageProcessor", config)
    if dual != ["ClipVit", "ClipText"]:
        raise UserError(f"transformers has no model with a {dual[0]} and a {dual[1]}")
    dtypes = {value.dtype for value in state.values()}
    theirs = to_theirs(state if len(dtypes) == 1 else tensor_files.to_float32(state), CLIP)
    file_config = _clip_json(model, theirs)
    save_file(theirs, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(file_config, indent=2) + "\n")
    preprocessing.write_preprocessing(folder, "CLIPImageProcessor", config)


def _clip_json(model: dict[str, Any], theirs: State) -> dict[str, Any]:
    vision, text = model["vision"], model["text"]
    if vision.get("pool", "class") != "class" or not vision.get("pre_norm", True) or not text.get("causal", True):
        raise UserError("transformers' CLIPModel pools the class token after a pre-norm, and its text tower is causal")
    if text.get("pool", "end") not in ("argmax", "eot", "end"):
        raise UserError(f"transformers' CLIPModel pools text at its end token, not at {text['pool']!r}")
    size, width = text["vocabulary_size"], model["projection"]["width"]
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": str(theirs["logit_scale"].dtype).removeprefix("torch."),
        "projection_dim": width,
        "vision_config": {
            **tower_json(vision, "vision_model", theirs),
            "projection_dim": width,
            "model_type": "clip_vision_model",
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        "text_config": {
            **tower_json(text, "text_model", theirs),
            "projection_dim": width,
            "model_type": "clip_text_model",
            "vocab_size": size,
            "max_position_embeddings": text["context_length"],
            "bos_token_id": size - 2,
            "eos_token_id": text["eot_id"] if text.get("pool") == "eot" else 2,  # 2: pooled at the highest id
            "pad_token_id": text.get("pad_id", 0),
        },
    }


def tower_json(side: dict[str, Any], layers: str, theirs: State) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "hidden_size": side["width"],
        "num_hidden_layers": side["layers"],
        "num_attention_heads": side.get("heads") or side["width"] // 64,
        "intermediate_size": len(theirs[f"{layers}.encoder.layers.0.mlp.fc1.bias"]),
        "hidden_act": names[side.get("activation", "quick_gelu")],
        "layer_norm_eps": side.get("norm_eps", 1e-5),
    }


def _write_dual(model: dict[str, Any], state: State, folder: Path) -> None:
    config = transformers.VisionTextDualEncoderConfig(
        vision_config=model["vision"]["config"],
        text_config=model["text"]["config"],
        projection_dim=model["projection"]["width"],
    )
    dual = transformers.VisionTextDualEncoderModel(config)
    dual.load_state_dict(to_theirs(tensor_files.to_float32(state), DUAL))
    dual.save_pretrained(folder)
