"""open_clip: a folder with `open_clip_config.json` and weights, or a training file `epoch_*.pt` with it beside.

Keys are OpenAI's, with `text.` before the text tower's in its CustomTextCLIP. Without a config the architecture is
inferred from the shapes, with exact GELU: open_clip's default, unlike OpenAI's. This is said in a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlp.checkpoints import clip
from vlp.checkpoints.checkpoint import Checkpoint, eval_transform
from vlp.checkpoints.keys import KeyRow, to_ours
from vlp.checkpoints.settings import assumed_for_clip
from vlp.system.errors import UserError
from vlp.system.json_files import read_json
from vlp.system.weight_folders import OPEN_CLIP_CONFIG

# what each side of its config may say; of what is not listed here only the training matters, or the default
_SIZES = {"layers", "width", "head_width", "heads", "mlp_ratio", "patch_size", "image_size", "context_length"}
_FORMS = {"no_ln_pre", "final_ln_after_pool", "no_causal_mask", "proj_bias", "proj_type", "pool_type", "norm_kwargs"}
_KNOWN = _SIZES | _FORMS | {"vocab_size", "act_kwargs", "eos_id", "pad_id"}
_TRAINING = {"patch_dropout", "output_tokens", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"}
_DEFAULTS = {"pos_embed_type": "learnable", "block_type": "default"}


def matches(state: Mapping[str, object]) -> bool:
    return "visual.class_embedding" in state and "text.token_embedding.weight" in state


def config_beside(path: Path) -> Path | None:
    file = (path if path.is_dir() else path.parent) / OPEN_CLIP_CONFIG
    return file if file.is_file() else None


def key_table(state: Mapping[str, object]) -> list[KeyRow]:
    prefix = "text." if "text.token_embedding.weight" in state else ""
    linear = [
        KeyRow("projection.text.weight", f"{prefix}text_projection.weight"),
        KeyRow("projection.text.bias", f"{prefix}text_projection.bias"),
    ]
    vision = clip.RESNET if "visual.layer1.0.conv1.weight" in state else clip.VIT
    return [*vision, *clip.text_rows(prefix), *linear, *clip.SCALE, KeyRow("projection.logit_bias", "logit_bias")]


def read(state: Mapping[str, Tensor], path: Path, architecture: dict[str, Any]) -> Checkpoint:
    file = config_beside(path)
    file_config = read_json(file) if file else {}
    if file:
        _refuse_unknown(file_config["model_cfg"])
    ours = to_ours(state, key_table(state))
    assumed = {}
    if not file:
        model = clip.infer_config(ours, **{"activation": "gelu"} | architecture)
        assumed = assumed_for_clip(model, architecture)
    else:
        cfg = file_config["model_cfg"]
        heads = {"text_heads": cfg["text_cfg"].get("heads", 8), "vision_heads": _vision_heads(cfg["vision_cfg"])}
        model = clip.infer_config(
            ours, **heads | {"activation": "quick_gelu" if cfg.get("quick_gelu") else "gelu"} | architecture
        )
        _apply_options(model, cfg, architecture)
    preprocess = file_config.get("preprocess_cfg", {})
    for key in {"mean", "std"} & preprocess.keys():
        if (value := preprocess[key]) is not None:
            model["vision"][key] = [value] * 3 if isinstance(value, (int, float)) else list(value)
    model["projection"] |= {
        "text_bias": "projection.text.bias" in ours,
        "logit_bias": float(ours["projection.logit_bias"]) if "projection.logit_bias" in ours else None,
    }
    config = {"model": model, "transform": _transform(model["vision"]["image_size"], preprocess)}
    return Checkpoint(config=config, state=ours, vocabulary=path.parent, assumed=assumed)


def _transform(image_size: int | list[int], preprocess: dict[str, Any]) -> dict[str, Any] | None:
    """preprocess: the folder's `preprocess_cfg` (mean, std, …), whose size yields to the model's.  None = one that vlp has not."""
    mode = {"shortest": "clip", "squash": "squash"}.get(preprocess.get("resize_mode") or "shortest")
    # open_clip is always bicubic where it makes a picture just cover an oblong image
    bilinear = preprocess.get("interpolation") == "bilinear" and (isinstance(image_size, int) or mode == "squash")
    return eval_transform(image_size, mode, **{"interpolation": "bilinear"} if bilinear else {}) if mode else None


def _vision_heads(cfg: dict[str, Any]) -> int:
    width = cfg.get("width", 768) * (32 if isinstance(cfg.get("layers", 12), list) else 1)
    return width // cfg.get("head_width", 64)


def _refuse_unknown(cfg: dict[str, Any]) -> None:
    unknown = ["multimodal_cfg"] if cfg.get("multimodal_cfg") else []
    for side in ("vision_cfg", "text_cfg"):
        for key, value in cfg[side].items():
            if key not in _KNOWN | _TRAINING and value not in (None, False, _DEFAULTS.get(key)):
                unknown.append(f"{side}.{key}={value}")
    if unknown:
        raise UserError(f"this open_clip model has parts that vlp does not build: {', '.join(unknown)}")


def _apply_options(model: dict[str, Any], cfg: dict[str, Any], architecture: dict[str, Any]) -> None:
    """What the shapes do not show: pooling, masks, norms and the form of the activation."""
    vision, text, plain = cfg["vision_cfg"], cfg["text_cfg"], "activation" not in architecture
    for part, side in (("vision", vision), ("text", text)):
        if (side.get("act_kwargs") or {}).get("approximate") == "tanh" and plain:
            model[part]["activation"] = "gelu_tanh"
        if side.get("norm_kwargs"):
            model[part]["norm_eps"] = side["norm_kwargs"].get("eps", 1e-5)
    if isinstance(vision.get("image_size"), int):  # it need not be a multiple of the patch size
        model["vision"]["image_size"] = vision["image_size"]
    if "patch_size" in model["vision"]:
        pool = {"tok": "class", "avg": "average"}.get(vision.get("pool_type", "tok"))
        if pool is None:
            raise UserError(f"vlp does not build open_clip's vision_cfg.pool_type={vision['pool_type']}")
        model["vision"] |= {
            "pool": pool,
            "pre_norm": not vision.get("no_ln_pre", False),
            "norm_before_pool": not vision.get("final_ln_after_pool", False),
        }
    pool = {"eos": "eot"}.get(text.get("pool_type", "argmax"), text.get("pool_type", "argmax"))
    model["text"] |= {
        "pool": pool,
        "eot_id": text.get("eos_id", 2) if pool == "eot" else None,
        "causal": not text.get("no_causal_mask", False),
        "pad_id": text.get("pad_id", 0),
    }
