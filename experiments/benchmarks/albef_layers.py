"""ALBEF-base's layers and ALBEF's order of passes over them, for the benchmarks of the second stage and of the joint step.

salesforce/ALBEF models/xbert.py, Retrieval.py, models/model_pretrain.py: texts are padded, padding is masked in attention,
keys and values are projected again for every pair. The layers are vlp's, so that only the order of passes differs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlp.models.fusion.cross import CrossFusion
from vlp.models.layers import Layout
from vlp.models.projection.linear import LinearProjection
from vlp.models.text.bert import BertText
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Text


def albef_base(*, vision: bool = True) -> VisionLanguageModel:
    """Random weights, without dropout; 256 pixels, so 257 image tokens.  vision: False = a vision tower of one layer."""
    torch.manual_seed(0)
    tower = ClipVit(
        image_size=256, patch_size=16, width=768, layers=12 if vision else 1, heads=12, activation="gelu", norm_eps=1e-6,
        pre_norm=False, patch_bias=True, norm_states=True,
    )  # fmt: skip
    text = BertText(vocabulary_size=30522, layers=6, dropout=0.0)
    fusion = CrossFusion(image_width=768, text_width=768, dropout=0.0)
    projection = LinearProjection(
        image_width=768, text_width=768, width=256, image_bias=True, text_bias=True, divisor=True
    )
    return VisionLanguageModel(vision=tower, text=text, fusion=fusion, projection=projection)


def captions(count: int, length: int = 30, seed: int = 0) -> Text:
    """Random ids, padded to `length`; lengths as of COCO's captions in word pieces (about 12.5 with [CLS], 8 to 24)."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (12.5 + 3 * torch.randn(count, generator=generator)).round().clamp(8, 24).long()
    ids = torch.randint(1000, 30000, (count, length), generator=generator)
    return Text(ids=ids, mask=torch.arange(length) < lengths[:, None])


def padded_text(model: VisionLanguageModel, text: Text) -> Tensor:
    """States of the text tower at every position, padding included: [b t d]."""
    tower = model.part("text")
    positions = torch.arange(text.ids.shape[1]).repeat(len(text.ids))
    x = tower._embed_tokens(text.ids.flatten(), positions)
    layout, mask = Layout(*text.ids.shape), text.mask[:, None, None, :]
    for block in tower.blocks:
        x = block(x, layout, mask)
    return layout.unpack(x)


def padded_fusion(model: VisionLanguageModel, states: Tensor, mask: Tensor, images: Tensor) -> Tensor:
    """States of the fusion at every position, with keys and values projected for each pair: [b t d]."""
    layout = Layout(states.shape[0], states.shape[1])
    x = layout.pack(states)
    for block in model.part("fusion").blocks:
        x = block(x, layout, mask[:, None, None, :], memory=block.cross_attention.project_memory(images))
    return layout.unpack(x)
