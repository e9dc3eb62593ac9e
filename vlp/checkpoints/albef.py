"""ALBEF's checkpoints (Li et al., arXiv:2107.07651; salesforce/ALBEF, BSD-3-Clause) ↔ vlp's config and state.

A file holds `{'model': state, …}`. Its one BERT of 2n layers is our text tower (the first n) and our fusion (the rest,
which look at the image); the pre-training file says `text_encoder.bert.`, the fine-tuned ones `text_encoder.`.
"""

from __future__ import annotations

from collections.abc import Mapping

from vlp.checkpoints.keys import Row, layers

_EMBEDDINGS = {
    "text.embedding.*": "embeddings.word_embeddings.*", "text.positions.*": "embeddings.position_embeddings.*",
    "text.token_types.*": "embeddings.token_type_embeddings.*", "text.norm.*": "embeddings.LayerNorm.*",
}  # fmt: skip
_LAYER = {
    "attention.out.*": "attention.output.dense.*", "norm1.*": "attention.output.LayerNorm.*",
    "mlp.fc1.*": "intermediate.dense.*", "mlp.fc2.*": "output.dense.*", "norm2.*": "output.LayerNorm.*",
}  # fmt: skip
_CROSS = {
    "cross_attention.query.*": "crossattention.self.query.*", "cross_attention.out.*": "crossattention.output.dense.*",
    "norm_cross.*": "crossattention.output.LayerNorm.*",
}  # fmt: skip
_VISION = {
    "patches.*": "patch_embed.proj.*", "class_token": "cls_token", "positions": "pos_embed", "norm_post.*": "norm.*",
    "blocks.{}.norm1.*": "blocks.{}.norm1.*", "blocks.{}.attention.qkv.*": "blocks.{}.attn.qkv.*",
    "blocks.{}.attention.out.*": "blocks.{}.attn.proj.*", "blocks.{}.norm2.*": "blocks.{}.norm2.*",
    "blocks.{}.mlp.*": "blocks.{}.mlp.*",
}  # fmt: skip


def matches(state: Mapping[str, object]) -> bool:
    return "visual_encoder.pos_embed" in state and any(".crossattention.self.query.weight" in key for key in state)


def bert_layer(ours: str, theirs: str, *, cross: bool) -> list[Row]:
    rows = [Row(f"{ours}.{own}", f"{theirs}.{other}") for own, other in (_LAYER | (_CROSS if cross else {})).items()]
    for own, other, parts in (
        ("attention.qkv", "attention.self", ("query", "key", "value")),
        ("cross_attention.key_value", "crossattention.self", ("key", "value")),
    ):
        if cross or own == "attention.qkv":
            rows.append(Row(f"{ours}.{own}.*", tuple(f"{theirs}.{other}.{part}.*" for part in parts)))
    return rows


def table(state: Mapping[str, object], *, twin: str = "") -> list[Row]:
    """Of the model's own parts.  twin: '_m' for the momentum copy of the same parts."""
    bert = f"text_encoder{twin}." + ("bert." if any(key.startswith("text_encoder.bert.") for key in state) else "")
    count = layers(state, f"{bert}encoder.layer.")
    rows = [Row(f"vision.{own}", f"visual_encoder{twin}.{other}") for own, other in _VISION.items()]
    rows += [Row(own, bert + other) for own, other in _EMBEDDINGS.items()]
    rows.append(Row(None, f"{bert}embeddings.position_ids"))
    for index in range(count):
        cross = f"{bert}encoder.layer.{index}.crossattention.self.query.weight" in state
        ours = f"fusion.blocks.{index - count // 2}" if cross else f"text.blocks.{index}"
        rows += bert_layer(ours, f"{bert}encoder.layer.{index}", cross=cross)
    rows += [
        Row(f"projection.{own}.*", f"{other}_proj{twin}.*") for own, other in (("image", "vision"), ("text", "text"))
    ]
    return [*rows, Row("projection.temperature", "temp")]
