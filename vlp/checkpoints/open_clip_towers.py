"""open_clip's other towers: image towers of timm, text towers of transformers, and CoCa's pooling and decoder.

Their files say less than a model needs: the architecture of a timm tower is in its name, that of a transformers tower in a
config elsewhere, which for BERT and RoBERTa follows from the shapes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import transformers

from vlp.checkpoints.keys import KeyRow, State, count_layers
from vlp.system.errors import UserError

# open_clip's default, whatever timm's own weights were trained with
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_BLOCK = {
    "norm1.*": "ln_1.*", "attention.qkv.*": "attn.in_proj_*", "attention.out.*": "attn.out_proj.*", "norm2.*": "ln_2.*",
    "mlp.fc1.*": "mlp.c_fc.*", "mlp.fc2.*": "mlp.c_proj.*",
}  # fmt: skip
_CROSS = _BLOCK | {"norm_memory.*": "ln_1_kv.*", "attention.*": "attn.*"}
_POOL = {"query": "query", "attention.*": "attn.*", "norm_query.*": "ln_q.*", "norm_states.*": "ln_k.*"}
COCA = [
    *(KeyRow(f"vision.attention_pool.{ours}", f"visual.attn_pool.{theirs}") for ours, theirs in _POOL.items()),
    KeyRow("text.class_token", "text.cls_emb"),
    *(KeyRow(f"decoder.blocks.{{}}.{a}", f"text_decoder.resblocks.{{}}.{b}") for a, b in _BLOCK.items()),
    *(
        KeyRow(f"decoder.cross_blocks.{{}}.{a}", f"text_decoder.cross_attn.{{}}.{b}")
        for a, b in _CROSS.items()
        if a not in ("attention.qkv.*", "attention.out.*")
    ),
    KeyRow("decoder.norm.*", "text_decoder.ln_final.*"),
    KeyRow("decoder.head.weight", "text_decoder.text_projection", transpose=True),
]
TRANSFORMERS = [
    KeyRow(None, "text.transformer.embeddings.position_ids"),
    KeyRow(None, "text.transformer.embeddings.token_type_ids"),
    KeyRow("text.backbone.*", "text.transformer.*"),
    KeyRow("projection.text.*", "text.proj.*"),
]
# transformers' families whose shapes tell the rest, by the number of token types
_FAMILIES = {
    1: {"model_type": "roberta", "layer_norm_eps": 1e-5, "pad_token_id": 1},
    2: {"model_type": "bert", "layer_norm_eps": 1e-12, "pad_token_id": 0},
}
_TOKENIZER = "vlp.tokenizers.hugging_face.HuggingFaceTokenizer"
_POOLERS = {"mean_pooler": "mean", "cls_pooler": "pooler", "cls_last_hidden_state_pooler": "class"}
_DEFAULT_POOLERS = {"bert": "cls_pooler", "m2m_100": "cls_pooler"}  # of all others, the mean


def is_timm(state: Mapping[str, object]) -> bool:
    return any(key.startswith("visual.trunk.") for key in state)


def is_transformers(state: Mapping[str, object]) -> bool:
    return "text.token_embedding.weight" not in state and any(key.startswith("text.transformer.") for key in state)


def timm_rows(vision: Mapping[str, Any]) -> list[KeyRow]:
    """vision: the file's `vision_cfg`."""
    rows = [KeyRow("projection.image.*", "visual.head.proj.*")]
    rows += [KeyRow(f"projection.image.{2 * i}.*", f"visual.head.mlp.fc{i + 1}.*") for i in (0, 1)]
    if not vision.get("timm_proj", "linear"):  # the network's own classifier gives the embedding
        settings: Any = timm.get_pretrained_cfg(vision["timm_model_name"], allow_unregistered=False)
        classifier = settings.classifier
        rows.append(KeyRow("projection.image.*", f"visual.trunk.{classifier}.*"))
    return [*rows, KeyRow("vision.backbone.*", "visual.trunk.*")]


def timm_tower(vision: Mapping[str, Any]) -> dict[str, Any]:
    name, pool = vision["timm_model_name"], vision.get("timm_pool", "avg")
    if pool in ("abs_attn", "rot_attn"):
        raise UserError(f"vlp does not build open_clip's vision_cfg.timm_pool={pool}")
    projected = vision.get("timm_proj", "linear") in ("linear", "mlp")  # else the network is made with this pooling
    return {
        "_target_": "vlp.models.vision.timm.TimmVision",
        "name": name,
        "weights": None,
        "image_size": vision.get("image_size", 224),
        "options": {} if projected else {"global_pool": pool},
        "global_pool": (pool or None) if projected else None,
        "mean": _MEAN,
        "std": _STD,
    }


def transformers_tower(text: Mapping[str, Any], state: State, folder: Path, heads: int | None) -> dict[str, Any]:
    """text: the file's `text_cfg`.  state: ours.  folder: of the file."""
    config = _transformers_config(text["hf_model_name"], state, folder, heads)
    pooler = text.get("hf_pooler_type", "mean_pooler") or _DEFAULT_POOLERS.get(config["model_type"], "mean_pooler")
    if pooler not in _POOLERS:
        raise UserError(f"vlp does not build open_clip's text_cfg.hf_pooler_type={pooler}")
    pool = _POOLERS[pooler]
    if pool == "pooler" and not any(key.startswith("text.backbone.pooler.") for key in state):
        pool = "class"  # of a model that has no pooler
    return {
        "_target_": "vlp.models.text.transformers.TransformersText",
        "weights": False,
        "config": config,
        "pool": pool,
    }


def _transformers_config(name: str, state: State, folder: Path, heads: int | None) -> dict[str, Any]:
    local = next((place for place in (Path(name), folder / name) if (place / "config.json").is_file()), None)
    try:  # on this machine, also from an earlier download
        found: Any = transformers.AutoConfig.from_pretrained(local or name, local_files_only=True)
    except (OSError, ValueError):
        found = None
    if found is None and (inferred := _infer_config(name, state, heads)):
        return inferred
    if found is None:
        try:
            found = transformers.AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"the text tower is transformers' {name}, whose config.json is neither on this machine nor on the hub: put its "
                f"folder beside the weights, as {folder / name}"
            ) from error
    config: dict[str, Any] = found.to_dict()
    return config


def _infer_config(name: str, state: State, heads: int | None) -> dict[str, Any] | None:
    """From the shapes, of BERT and RoBERTa; None = another architecture."""
    stem = "text.backbone.embeddings"
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    types = shapes.get(f"{stem}.token_type_embeddings.weight", (0, 0))[0]
    first = "text.backbone.encoder.layer.0"
    if types not in _FAMILIES or "bert" not in name.lower() or f"{first}.attention.self.query.weight" not in shapes:
        return None
    vocabulary_size, width = shapes[f"{stem}.word_embeddings.weight"]
    return _FAMILIES[types] | {
        "vocab_size": vocabulary_size,
        "hidden_size": width,
        "max_position_embeddings": shapes[f"{stem}.position_embeddings.weight"][0],
        "type_vocab_size": types,
        "num_hidden_layers": count_layers(state, "text.backbone.encoder.layer."),
        "num_attention_heads": heads or width // 64,
        "intermediate_size": shapes[f"{first}.intermediate.dense.weight"][0],
    }


def tokenizer_node(text: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of a tokenizer of transformers, whose files open_clip's folder has; None = CLIP's own, or one with
    options that vlp does not know."""
    if not (text.get("hf_tokenizer_name") or text.get("hf_model_name")):
        return None
    options = dict(text.get("tokenizer_kwargs") or {})
    cleaning = f"open_clip_{options.pop('clean', 'whitespace')}"
    if options or text.get("tokenizer_mode"):
        return None
    length = text.get("context_length", 77)
    return {"_target_": _TOKENIZER, "context_length": length, "cleaning": cleaning}


def projection(state: State, embed_dim: int) -> dict[str, Any]:
    """From the shapes of our state, for towers of any kind."""
    node: dict[str, Any] = {"_target_": "vlp.models.projection.linear.LinearProjection", "width": embed_dim}
    for name in ("image", "text"):
        last = next((k for k in (f"projection.{name}.2.weight", f"projection.{name}.weight") if k in state), None)
        first = f"projection.{name}.0.weight"
        node[f"{name}_width"] = embed_dim if last is None else state[first if first in state else last].shape[1]
        node[f"project_{name}"] = last is not None
        node[f"{name}_bias"] = last is not None and last.replace("weight", "bias") in state
        if first in state:
            node["_target_"] = "vlp.models.projection.two_layer.TwoLayerProjection"
            node[f"{name}_hidden_width"] = state[first].shape[0]
            node[f"{name}_hidden_bias"] = first.replace("weight", "bias") in state
    return node


def apply_coca(model: dict[str, Any], cfg: Mapping[str, Any], state: State, activation: str) -> None:
    """CoCa's parts of a model whose towers are open_clip's own."""
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    if vision.get("attentional_pool"):
        if vision["attentional_pool"] is not True:
            raise UserError(f"vlp does not build open_clip's vision_cfg.attentional_pool={vision['attentional_pool']}")
        queries, width = state["vision.attention_pool.query"].shape
        model["vision"] |= {
            "pool": "attention",
            "pool_queries": queries,
            "pool_width": width,
            "norm_before_pool": False,
        }
        model["vision"]["pool_heads"] = vision.get("attn_pooler_heads", 8)
    if text.get("embed_cls"):
        model["text"] |= {"class_token": True, "context_length": model["text"]["context_length"] - 1}
    if not cfg.get("multimodal_cfg"):
        return
    if not text.get("embed_cls"):
        raise UserError("vlp builds CoCa with a text tower that has a class token alone (text_cfg.embed_cls)")
    model["vision"]["norm_states"] = True
    vocabulary_size, width = state["decoder.head.weight"].shape
    model["decoder"] = {
        "_target_": "vlp.models.decoder.coca.CocaDecoder",
        "vocabulary_size": vocabulary_size,
        "memory_width": model["vision"].get("pool_width") or model["vision"]["width"],
        "context_length": cfg["multimodal_cfg"].get("context_length", 77),
        "width": width,
        "layers": count_layers(state, "decoder.blocks."),
        "heads": cfg["multimodal_cfg"].get("heads", 8),
        "mlp_ratio": len(state["decoder.blocks.0.mlp.fc1.bias"]) / width,
        "activation": activation,
    }
