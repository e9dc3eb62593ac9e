"""The keys of transformers' BERT, which ALBEF and BLIP build on, with cross-attention where their layers have it."""

from __future__ import annotations

from vlp.checkpoints.keys import KeyRow

_EMBEDDINGS = {
    "embedding.*": "word_embeddings.*", "positions.*": "position_embeddings.*",
    "token_types.*": "token_type_embeddings.*", "norm.*": "LayerNorm.*",
}  # fmt: skip
_LAYER = {
    "attention.out.*": "attention.output.dense.*", "norm1.*": "attention.output.LayerNorm.*",
    "mlp.fc1.*": "intermediate.dense.*", "mlp.fc2.*": "output.dense.*", "norm2.*": "output.LayerNorm.*",
}  # fmt: skip
_CROSS = {
    "cross_attention.query.*": "crossattention.self.query.*", "cross_attention.out.*": "crossattention.output.dense.*",
    "norm_cross.*": "crossattention.output.LayerNorm.*",
}  # fmt: skip
_HEAD = {"transform.*": "transform.dense.*", "norm.*": "transform.LayerNorm.*", "bias": "bias"}


def embedding_rows(ours: str, theirs: str) -> list[KeyRow]:
    rows = [KeyRow(f"{ours}.{own}", f"{theirs}.embeddings.{other}") for own, other in _EMBEDDINGS.items()]
    return [*rows, KeyRow(None, f"{theirs}.embeddings.position_ids")]


def layer_rows(ours: str, theirs: str, *, cross: bool) -> list[KeyRow]:
    rows = [KeyRow(f"{ours}.{own}", f"{theirs}.{other}") for own, other in (_LAYER | (_CROSS if cross else {})).items()]
    for own, other, parts in (
        ("attention.qkv", "attention.self", ("query", "key", "value")),
        ("cross_attention.key_value", "crossattention.self", ("key", "value")),
    ):
        if cross or own == "attention.qkv":
            rows.append(KeyRow(f"{ours}.{own}.*", tuple(f"{theirs}.{other}.{part}.*" for part in parts)))
    return rows


def language_head_rows(ours: str, theirs: str) -> list[KeyRow]:
    """`cls.predictions`; its decoder repeats the word embeddings and the bias."""
    rows = [KeyRow(f"{ours}.{own}", f"{theirs}.{other}") for own, other in _HEAD.items()]
    return [*rows, KeyRow(None, f"{theirs}.decoder.weight"), KeyRow(None, f"{theirs}.decoder.bias")]
