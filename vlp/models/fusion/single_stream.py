"""ViLT's multimodal encoder: text and image in one sequence through one pre-norm transformer, in which each sees the other
from the first layer on (Kim et al., arXiv:2102.03334, §3.1; dandelin/ViLT vilt/modules/vilt_module.py `infer`).

Texts and images of different lengths are packed: layers work on real tokens.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlp.models.layers import Attention, Dropout, Layout, Mlp, num_heads
from vlp.models.post_norm import init_bert_weights
from vlp.models.tokens import real_mask
from vlp.structures import Tokens
from vlp.system.errors import UserError


class StreamBlock(nn.Module):
    """timm's vision transformer block, whose dropout follows each linear map of what it adds but not the attention."""

    def __init__(
        self, *, width: int, heads: int, mlp_ratio: float, activation: str, dropout: float, norm_eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width=width, heads=heads)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width=width, hidden_width=round(width * mlp_ratio), activation_name=activation)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "r d"], layout: Layout, mask: Bool[Tensor, "b 1 1 n"] | None
    ) -> Float[Tensor, "r d"]:
        x = x + self.dropout(self.attention(self.norm1(x), layout, mask, False))
        hidden = self.dropout(self.mlp.activation(self.mlp.fc1(self.norm2(x))))
        return x + self.dropout(self.mlp.fc2(hidden))


class SingleStreamFusion(nn.Module):
    """image_width, text_width: of the towers' states; states of another width than `width` pass a linear map first.
    images: how many a text may have (NLVR2: 2); each has its own type embedding and meets the text by itself.
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
            StreamBlock(
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
        """The image's states as this fusion's stream takes them; every layer looks at them again."""
        return dataclasses.replace(image, states=self._to_fusion_width(image))

    def forward(self, text: Tokens, *images: Tokens) -> Tokens:
        """The text's states, then the image's; with two images, the text and the second image after that. States of
        padding are zero.  images: of as many rows as text.
        """
        if not 1 <= len(images) <= self.images:
            raise UserError(
                f"{len(images)} images for a fusion of {self.images}: set model.fusion.images to as many as a text has"
            )
        streams = [self._stream(text, image, kind) for kind, image in enumerate(images, start=1)]
        if len(streams) == 1:
            return streams[0]
        masks = [real_mask(stream) for stream in streams]
        return Tokens(
            states=torch.cat([stream.states for stream in streams], dim=1),
            pooled=torch.cat([stream.pooled for stream in streams], dim=1),
            mask=None if all(stream.mask is None for stream in streams) else torch.cat(masks, dim=1),
            grid=images[-1].grid,
        )

    def _stream(self, text: Tokens, image: Tokens, kind: int) -> Tokens:
        """kind: the image's row of the type embeddings."""
        words = self.text_input(text.states) + self.types.weight[0]
        x = torch.cat([words, self._to_fusion_width(image) + self.types.weight[kind]], dim=1)
        mask = torch.cat([real_mask(text), real_mask(image)], dim=1)
        layout = Layout.of(mask)
        real, x = layout.real(), layout.pack(x)
        for block in self.blocks:
            x = block(x, layout, real)
        states = layout.unpack(self.norm(x))
        pooled = self.pooler(states[:, 0]).tanh()
        return Tokens(states=states, pooled=pooled, mask=None if layout.rows is None else mask, grid=image.grid)

    def _to_fusion_width(self, image: Tokens) -> Float[Tensor, "b m d"]:
        """Of this fusion's width; those of `project_memory` already are."""
        return image.states if image.states.shape[-1] == self.width else self.image_input(image.states)
