"""The keys of transformers' BERT, which ALBEF and BLIP build on, with cross-attention where their layers have it."""

from __future__ import annotations

from vlp.checkpoints.keys import Row

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


def embeddings(ours: str, theirs: str) -> list[Row]:
    rows = [Row(f"{ours}.{own}", f"{theirs}.embeddings.{other}") for own, other in _EMBEDDINGS.items()]
    return [*rows, Row(None, f"{theirs}.embeddings.position_ids")]


def layer(ours: str, theirs: str, *, cross: bool) -> list[Row]:
    rows = [Row(f"{ours}.{own}", f"{theirs}.{other}") for own, other in (_LAYER | (_CROSS if cross else {})).items()]
    for own, other, parts in (
        ("attention.qkv", "attention.self", ("query", "key", "value")),
        ("cross_attention.key_value", "crossattention.self", ("key", "value")),
    ):
        if cross or own == "attention.qkv":
            rows.append(Row(f"{ours}.{own}.*", tuple(f"{theirs}.{other}.{part}.*" for part in parts)))
    return rows


def language_head(ours: str, theirs: str) -> list[Row]:
    """`cls.predictions`; its decoder repeats the word embeddings and the bias."""
    rows = [Row(f"{ours}.{own}", f"{theirs}.{other}") for own, other in _HEAD.items()]
    return [*rows, Row(None, f"{theirs}.decoder.weight"), Row(None, f"{theirs}.decoder.bias")]
