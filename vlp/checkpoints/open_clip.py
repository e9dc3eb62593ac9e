"""open_clip: a folder with `open_clip_config.json` and weights, or a training file `epoch_*.pt` with it beside.

Keys are OpenAI's, with `text.` before the text tower's in its CustomTextCLIP. Without a config the architecture is
inferred from the shapes, with exact GELU: open_clip's default, unlike OpenAI's. This is said in a warning. Towers of timm
and transformers, and CoCa, are in `open_clip_towers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlp.checkpoints import clip
from vlp.checkpoints import open_clip_towers as towers
from vlp.checkpoints.checkpoint import Checkpoint, eval_transform
from vlp.checkpoints.keys import KeyRow, State, to_ours
from vlp.checkpoints.settings import assumed_for_clip
from vlp.structures import height_and_width
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object
from vlp.system.weight_folders import OPEN_CLIP_CONFIG

# what each side of its config may say; of what is not listed here only the training matters, or the default
_SIZES = {"layers", "width", "head_width", "heads", "mlp_ratio", "patch_size", "image_size", "context_length"}
_FORMS = {"no_ln_pre", "final_ln_after_pool", "no_causal_mask", "proj_bias", "proj_type", "pool_type", "norm_kwargs"}
_COCA = {"attentional_pool", "attn_pooler_queries", "attn_pooler_heads", "embed_cls"}
_OTHERS = {
    "timm_model_name",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
    "hf_model_name",
    "hf_proj_type",
    "hf_pooler_type",
}
_KNOWN = _SIZES | _FORMS | _COCA | _OTHERS | {"vocab_size", "act_kwargs", "eos_id", "pad_id"}
_TRAINING = {
    "patch_dropout", "output_tokens", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "timm_model_pretrained",
    "timm_drop", "timm_drop_path", "hf_model_pretrained",
}  # fmt: skip
_DEFAULTS = {"pos_embed_type": "learnable", "block_type": "default"}


def matches(state: Mapping[str, object]) -> bool:
    text = "text.token_embedding.weight" in state or "token_embedding.weight" in state or towers.is_transformers(state)
    return text and "logit_scale" in state and ("visual.class_embedding" in state or towers.is_timm(state))


def config_beside(path: Path) -> Path | None:
    file = (path if path.is_dir() else path.parent) / OPEN_CLIP_CONFIG
    return file if file.is_file() else None


def key_table(state: Mapping[str, object], cfg: Mapping[str, Any] | None = None) -> list[KeyRow]:
    """cfg: the file's `model_cfg`, which towers of timm need."""
    prefix = "text." if "text.token_embedding.weight" in state else ""
    linear = [
        KeyRow("projection.text.weight", f"{prefix}text_projection.weight"),
        KeyRow("projection.text.bias", f"{prefix}text_projection.bias"),
    ]
    own = clip.RESNET if "visual.layer1.0.conv1.weight" in state else clip.VIT
    vision = towers.timm_rows(cfg["vision_cfg"]) if cfg and towers.is_timm(state) else own
    text = towers.TRANSFORMERS if towers.is_transformers(state) else [*clip.text_rows(prefix), *linear]
    coca = towers.COCA if "text.cls_emb" in state else []
    return [*vision, *text, *coca, *clip.SCALE, KeyRow("projection.logit_bias", "logit_bias")]


def read(state: Mapping[str, Tensor], path: Path, architecture: dict[str, Any]) -> Checkpoint:
    file = config_beside(path)
    file_config = read_json_object(file) if file else {}
    cfg = file_config.get("model_cfg")
    if cfg:
        _refuse_unknown(cfg)
    elif towers.is_timm(state) or towers.is_transformers(state) or "text.cls_emb" in state:
        raise UserError(
            f"{path} has a timm tower, a transformers tower or CoCa's parts: put its {OPEN_CLIP_CONFIG} beside it"
        )
    ours = to_ours(state, key_table(state, cfg))
    assumed = {}
    if not cfg:
        model = clip.infer_config(ours, **{"activation": "gelu"} | architecture)
        model["projection"]["text_bias"] = "projection.text.bias" in ours
        assumed = assumed_for_clip(model, architecture)
    else:
        model = _model_config(cfg, ours, path, architecture)
    preprocess = file_config.get("preprocess_cfg", {})
    for key in {"mean", "std"} & preprocess.keys():
        if (value := preprocess[key]) is not None:
            model["vision"][key] = [value] * 3 if isinstance(value, (int, float)) else list(value)
    model["projection"]["logit_bias"] = (
        float(ours["projection.logit_bias"]) if "projection.logit_bias" in ours else None
    )
    config = {"model": model, "transform": _transform(model["vision"]["image_size"], preprocess)}
    tokenizer = towers.tokenizer_node(cfg["text_cfg"]) if cfg else None
    config |= {"tokenizer": tokenizer} if tokenizer else {}
    return Checkpoint(config=config, state=ours, vocabulary=path.parent, assumed=assumed)


def _model_config(cfg: dict[str, Any], state: State, path: Path, architecture: dict[str, Any]) -> dict[str, Any]:
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    activation = architecture.get("activation", "quick_gelu" if cfg.get("quick_gelu") else "gelu")
    model: dict[str, Any] = {"_target_": "vlp.models.vlm.VisionLanguageModel"}
    if vision.get("timm_model_name"):
        model["vision"] = towers.timm_tower(vision)
    else:
        heads = architecture.get("vision_heads", _vision_heads(vision))
        model["vision"] = clip.infer_vision(state, heads, activation)
    if text.get("hf_model_name"):
        model["text"] = towers.transformers_tower(text, state, path.parent, architecture.get("text_heads"))
    else:
        model["text"] = clip.infer_text(state, architecture.get("text_heads", text.get("heads", 8)), activation)
    model["projection"] = towers.projection(state, cfg["embed_dim"])
    _apply_options(model, cfg, architecture)
    if "patch_size" in model["vision"] and "vocabulary_size" in model["text"]:
        towers.apply_coca(model, cfg, state, activation)
    elif cfg.get("multimodal_cfg"):
        raise UserError("vlp builds CoCa with open_clip's own towers alone, not with towers of timm or transformers")
    return model


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
    unknown = []
    for side in ("vision_cfg", "text_cfg"):
        for key, value in cfg[side].items():
            if key not in _KNOWN | _TRAINING and value not in (None, False, _DEFAULTS.get(key)):
                unknown.append(f"{side}.{key}={value}")
    if unknown:
        raise UserError(f"this open_clip model has parts that vlp does not build: {', '.join(unknown)}")


def _apply_options(model: dict[str, Any], cfg: dict[str, Any], architecture: dict[str, Any]) -> None:
    """What the shapes do not show: pooling, masks, norms and the form of the activation; of open_clip's own towers."""
    vision, text, plain = cfg["vision_cfg"], cfg["text_cfg"], "activation" not in architecture
    own = {"vision": "patch_size" in model["vision"], "text": "vocabulary_size" in model["text"]}
    for part, side in (("vision", vision), ("text", text)):
        if own[part] and (side.get("act_kwargs") or {}).get("approximate") == "tanh" and plain:
            model[part]["activation"] = "gelu_tanh"
        if own[part] and side.get("norm_kwargs"):
            model[part]["norm_eps"] = side["norm_kwargs"].get("eps", 1e-5)
    if vision.get("image_size") is not None:  # it need not be a multiple of the patch size
        height, width = height_and_width(vision["image_size"])
        model["vision"]["image_size"] = height if height == width else [height, width]
    if own["vision"]:
        pool = {"tok": "class", "avg": "average"}.get(vision.get("pool_type", "tok"))
        if pool is None or (pool == "average" and vision.get("attentional_pool")):
            raise UserError(f"vlp does not build open_clip's vision_cfg.pool_type={vision['pool_type']}")
        model["vision"] |= {
            "pool": pool,
            "pre_norm": not vision.get("no_ln_pre", False),
            "norm_before_pool": not vision.get("final_ln_after_pool", False),
        }
    if own["text"]:
        pool = {"eos": "eot"}.get(text.get("pool_type", "argmax"), text.get("pool_type", "argmax"))
        model["text"] |= {
            "pool": pool,
            "eot_id": text.get("eos_id", 2) if pool == "eot" else None,
            "causal": not text.get("no_causal_mask", False),
            "pad_id": text.get("pad_id", 0),
        }
