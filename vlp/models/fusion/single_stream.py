"""ViLT's multimodal encoder: text and image in one sequence through one pre-norm transformer, in which each attends to the
other from the first layer on (Kim et al., arXiv:2102.03334, §3.1; dandelin/ViLT vilt/modules/vilt_module.py `infer`).

Texts and images of different lengths are packed: layers work on real tokens.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.layers import Layout, PreNormBlock, num_heads
from vlp.models.post_norm import init_bert_weights
from vlp.models.tokens import real_mask
from vlp.structures import Tokens
from vlp.system.errors import UserError


class SingleStreamFusion(nn.Module):
    """image_width, text_width: of the towers' states; states of another width than `width` pass a linear map first.
    images: how many a text may have (NLVR2: 2); each has its own type embedding and its own pass with the text.
    pooled: tanh of a linear map of the text's first state; with two images, both one after the other.
    """

    def __init__(
        self,
        *,
        image_width: int,
        text_width: int,
        width: int = 768,
        layers: int = 12,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        activation: str = "gelu",
        images: int = 1,
        dropout: float = 0.1,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if images not in (1, 2):
            raise UserError(f"model.fusion.images={images}: a text has one image, or two (NLVR2)")
        self.width, self.images = width, images
        self.image_input = nn.Identity() if image_width == width else nn.Linear(image_width, width)
        self.text_input = nn.Identity() if text_width == width else nn.Linear(text_width, width)
        self.types = nn.Embedding(1 + images, width)
        self.blocks = nn.ModuleList(
            PreNormBlock(
                width=width,
                heads=num_heads(width, heads, "heads, or vision_heads to vlp.load"),
                mlp_ratio=mlp_ratio,
                activation=activation,
                dropout=dropout,
                norm_eps=norm_eps,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.pooler = nn.Linear(width, width)
        init_bert_weights(self, width)

    def project_memory(self, image: Tokens) -> Tokens:
        """The image's states in the width of this fusion; nothing else can be computed once for several texts."""
        return dataclasses.replace(image, states=self._to_fusion_width(image))

    def forward(self, text: Tokens, *images: Tokens) -> Tokens:
        """The text's states, then the image's; with two images, the text and the second image after that. States of
        padding are zero.  images: of as many rows as text.
        """
        if not 1 <= len(images) <= self.images:
            raise UserError(
                f"{len(images)} images for a fusion of {self.images}: set model.fusion.images to as many as a text has"
            )
        streams = [self._fuse_one_image(text, image, kind) for kind, image in enumerate(images, start=1)]
        if len(streams) == 1:
            return streams[0]
        masks = [real_mask(stream) for stream in streams]
        return Tokens(
            states=torch.cat([stream.states for stream in streams], dim=1),
            pooled=torch.cat([stream.pooled for stream in streams], dim=1),
            mask=None if all(stream.mask is None for stream in streams) else torch.cat(masks, dim=1),
            grid=images[-1].grid,
        )

    def _fuse_one_image(self, text: Tokens, image: Tokens, kind: int) -> Tokens:
        """kind: the image's row of the type embeddings."""
        words = self.text_input(text.states) + self.types.weight[0]
        x = torch.cat([words, self._to_fusion_width(image) + self.types.weight[kind]], dim=1)
        mask = torch.cat([real_mask(text), real_mask(image)], dim=1)
        layout = Layout.from_mask(mask)
        real, x = layout.attention_mask(), layout.pack(x)
        for block in self.blocks:
            x = block(x, layout, real)
        states = layout.unpack(self.norm(x))
        pooled = self.pooler(states[:, 0]).tanh()
        return Tokens(states=states, pooled=pooled, mask=None if layout.full else mask, grid=image.grid)

    def _to_fusion_width(self, image: Tokens) -> Float[Tensor, "b m d"]:
        """Of this fusion's width; those of `project_memory` already are."""
        return image.states if image.states.shape[-1] == self.width else self.image_input(image.states)
