"""Hugging Face folders of EoMT: EomtForUniversalSegmentation, with DINOv2's tower; its variant on DINOv3 is refused by name.

The loss's weights of classes are no weights of the model: they are dropped, and written again from the config.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from vlp.checkpoints import hugging_face, preprocessing, tensor_files
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import KeyRow, State, to_ours, to_theirs
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object

_LAYER, _BLOCK = "layers.{}", "vision.blocks.{}"
_EMPTY_WEIGHT = "criterion.empty_weight"
TABLE = [
    KeyRow("vision.queries", "query.weight"),
    KeyRow("vision.class_token", "embeddings.cls_token"),
    KeyRow("vision.registers", "embeddings.register_tokens"),
    KeyRow("vision.positions", "embeddings.position_embeddings.weight"),
    KeyRow("vision.patches.*", "embeddings.patch_embeddings.projection.*"),
    *(
        KeyRow(f"{_BLOCK}.attention.qkv.{kind}", tuple(f"{_LAYER}.attention.{part}_proj.{kind}" for part in "qkv"))
        for kind in ("weight", "bias")
    ),
    KeyRow(f"{_BLOCK}.attention.out.*", f"{_LAYER}.attention.out_proj.*"),
    *(KeyRow(f"{_BLOCK}.scale{number}", f"{_LAYER}.layer_scale{number}.lambda1") for number in (1, 2)),
    *(KeyRow(f"{_BLOCK}.norm{number}.*", f"{_LAYER}.norm{number}.*") for number in (1, 2)),
    *(KeyRow(f"{_BLOCK}.mlp.{name}.*", f"{_LAYER}.mlp.{name}.*") for name in ("fc1", "fc2")),
    *(KeyRow(f"{_BLOCK}.mlp.{name}.*", f"{_LAYER}.mlp.{name}_proj.*") for name in ("gate", "up", "down")),
    KeyRow("vision.norm.*", "layernorm.*"),
    KeyRow("vision.upscale.{}.spread.*", "upscale_block.block.{}.conv1.*"),
    KeyRow("vision.upscale.{}.depthwise.weight", "upscale_block.block.{}.conv2.weight"),
    KeyRow("vision.upscale.{}.norm.*", "upscale_block.block.{}.layernorm2d.*"),
    *(KeyRow(f"vision.mask.{2 * number}.*", f"mask_head.fc{number + 1}.*") for number in range(3)),
    KeyRow("vision.classes.*", "class_predictor.*"),
    KeyRow("vision.mask_probability", "attn_mask_probs"),
    KeyRow(None, _EMPTY_WEIGHT),
]


def matches(folder: Path) -> bool:
    return str(read_json_object(folder / "config.json").get("model_type")).startswith("eomt")


def read(folder: Path, architecture: dict[str, Any]) -> Checkpoint:
    hugging_face.refuse_unknown_options(architecture)
    file_config = read_json_object(folder / "config.json")
    if file_config["model_type"] != "eomt":
        raise UserError(
            f"{folder} holds a {file_config['model_type']}: vlp reads EoMT on DINOv2's tower (model_type eomt)"
        )
    config: Any = transformers.EomtConfig(**file_config)
    names = [str(config.id2label[number]) for number in range(config.num_labels)]
    state = to_ours(hugging_face.read_weights(folder), TABLE)
    if "vision.mask_probability" not in state:  # as the model is built
        state["vision.mask_probability"] = torch.ones(config.num_blocks)
    tower = {
        "_target_": "vlp.models.vision.eomt.EomtVit",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "mlp_ratio": config.mlp_ratio,
        "activation": hugging_face.activation_name(config.hidden_act, "EoMT"),
        "swiglu": config.use_swiglu_ffn,
        "registers": config.num_register_tokens,
        "queries": config.num_queries,
        "query_blocks": config.num_blocks,
        "classes": config.num_labels,
        "up": config.num_upscale_blocks,
        "norm_eps": config.layer_norm_eps,
        "layer_scale": config.layerscale_value,
    }
    task = {
        "_target_": "vlp.tasks.panoptic.Panoptic",
        "head": "tower",
        "segment_names": names if len(set(names)) == len(names) else [f"{i} {name}" for i, name in enumerate(names)],
        "states_width": config.hidden_size,
        "points": config.train_num_points,
        "no_object": config.no_object_weight,
        "losses": {"class": config.class_weight, "mask": config.mask_weight, "dice": config.dice_weight},
    }
    checkpoint = Checkpoint(
        config={
            "model": {"_target_": "vlp.models.vlm.VisionLanguageModel", "vision": tower},
            "transform": preprocessing.hugging_face_transform(config.image_size, "squash"),
            "objectives": {"panoptic": task},
        },
        state=state,
    )
    preprocessing.add_preprocessing(checkpoint.config, folder)
    return checkpoint


def write(checkpoint: Checkpoint, folder: Path) -> None:
    vision = checkpoint.config["model"]["vision"]
    task = (checkpoint.config.get("objectives") or {}).get("panoptic") or {}
    dtypes = {value.dtype for value in checkpoint.state.values()}
    ours: State = checkpoint.state if len(dtypes) == 1 else tensor_files.to_float32(checkpoint.state)
    theirs = to_theirs(ours, TABLE)
    weight = torch.ones(vision["classes"] + 1, dtype=theirs["query.weight"].dtype)
    weight[-1] = task.get("no_object", 0.1)
    theirs[_EMPTY_WEIGHT] = weight
    losses = task.get("losses") or {}
    names = task.get("segment_names") or [str(number) for number in range(vision["classes"])]
    file_config = {
        "architectures": ["EomtForUniversalSegmentation"],
        "model_type": "eomt",
        "dtype": str(theirs["query.weight"].dtype).removeprefix("torch."),
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "hidden_size": vision["width"],
        "num_hidden_layers": vision["layers"],
        "num_attention_heads": vision.get("heads") or vision["width"] // 64,
        "mlp_ratio": vision.get("mlp_ratio", 4),
        "hidden_act": {"quick_gelu": "quick_gelu", "gelu_tanh": "gelu_pytorch_tanh"}.get(
            vision.get("activation", ""), "gelu"
        ),
        "use_swiglu_ffn": vision.get("swiglu", False),
        "num_register_tokens": vision.get("registers", 4),
        "num_queries": vision.get("queries", 200),
        "num_blocks": vision.get("query_blocks", 4),
        "num_upscale_blocks": vision.get("up", 2),
        "layer_norm_eps": vision.get("norm_eps", 1e-6),
        "layerscale_value": vision.get("layer_scale", 1.0),
        "train_num_points": task.get("points", 12_544),
        "no_object_weight": task.get("no_object", 0.1),
        **{f"{name}_weight": losses.get(name, value) for name, value in (("class", 2.0), ("mask", 5.0), ("dice", 5.0))},
        "id2label": {str(number): name for number, name in enumerate(names)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(theirs, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(file_config, indent=2) + "\n")
