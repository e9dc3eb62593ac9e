"""ALBEF's multimodal encoder: text that attends to the image in every layer (Li et al., arXiv:2107.07651, §3.1;
salesforce/ALBEF models/xbert.py, layers 6 to 11 of its BERT)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlp.models.layers import Layout, num_heads
from vlp.models.post_norm import build_post_norm_blocks, init_bert_weights
from vlp.models.tokens import check_pool, masked_mean
from vlp.structures import CrossAttentionCache, Tokens
from vlp.system.errors import UserError


class CrossFusion(nn.Module):
    """image_width, text_width: of the towers' states; texts of another width than `width` pass a linear map first.
    pool: 'class' = pooled is the first token's state, 'mean' = the mean over real tokens, 'max' = each channel's greatest
    value over them, so that one word that does not fit can outweigh all that do.
    images: with more than one, layer i attends to image i mod images, and the layers of a round share their keys and values
    (ALBEF's NLVR2 model, two images; models/model_nlvr.py).
    """

    def __init__(
        self,
        *,
        image_width: int,
        text_width: int,
        width: int = 768,
        layers: int = 6,
        heads: int | None = None,
        hidden_width: int | None = None,
        activation: str = "gelu",
        dropout: float = 0.1,
        norm_eps: float = 1e-12,
        images: int = 1,
        pool: str = "class",
    ) -> None:
        super().__init__()
        check_pool(pool, ("class", "mean", "max"))
        if images < 1 or layers % images:
            raise UserError(
                f"{layers} fusion layers for {images} images: set model.fusion.layers to a multiple of images"
            )
        self.width, self.images, self.pool = width, images, pool
        self.input = nn.Identity() if text_width == width else nn.Linear(text_width, width)
        self.blocks = build_post_norm_blocks(
            layers=layers,
            width=width,
            heads=num_heads(width, heads, "fusion_heads"),
            hidden_width=hidden_width,
            activation=activation,
            dropout=dropout,
            norm_eps=norm_eps,
            memory_width=image_width,
        )
        init_bert_weights(self, width)
        for index, block in enumerate(self.blocks):
            block.cross_attention.key_value = self.blocks[index - index % images].cross_attention.key_value  # type: ignore[union-attr]

    def project_memory(self, image: Tokens) -> CrossAttentionCache:
        """One layer for each round of the images: layers of a round have the same keys and values."""
        return CrossAttentionCache(
            layers=[block.cross_attention.project_memory(image.states) for block in self.blocks[:: self.images]],  # type: ignore[union-attr, operator]
            mask=image.mask,
        )

    def forward(self, text: Tokens, *images: Tokens | CrossAttentionCache) -> Tokens:
        """States of padding are zero.  images: as many as the fusion was built for, of as many rows as text, or of one row for
        all texts."""
        if len(images) != self.images:
            raise UserError(f"this fusion takes {self.images} images at once, and got {len(images)}")
        memories = [image if isinstance(image, CrossAttentionCache) else self.project_memory(image) for image in images]
        x, mask = self.input(text.states), text.mask
        layout = Layout(x.shape[0], x.shape[1]) if mask is None else Layout.from_mask(mask)
        real, x = layout.attention_mask(), layout.pack(x)
        for index, block in enumerate(self.blocks):
            turn = index % self.images
            layer = memories[turn].layers[index // self.images]
            x = block(x, layout, real, memory=layer, memory_mask=memories[turn].attention_mask())
        states = layout.unpack(x)
        return Tokens(states=states, pooled=self._pool_states(states, mask), mask=mask, ids=text.ids)

    def _pool_states(self, states: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b d"]:
        if self.pool == "class":
            return states[:, 0]
        if self.pool == "mean":
            return masked_mean(states, mask)
        if mask is None:
            return states.amax(1)
        greatest = states.masked_fill(~mask[..., None], -torch.inf).amax(1)
        return torch.where(
            mask.any(1, keepdim=True), greatest, 0.0
        )  # of a text without tokens, as with the other pools
