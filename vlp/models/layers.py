"""The transformer that CLIP's vision and text towers share: pre-norm blocks of self-attention and a two-layer perceptron.

Every token passes through the same maps; only `Attention` looks at other tokens, through one call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn


class QuickGelu(nn.Module):
    """x · σ(1.702 x), OpenAI CLIP's activation (Hendrycks and Gimpel, arXiv:1606.08415, §2)."""

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return x * torch.sigmoid(1.702 * x)


def activation(name: str) -> nn.Module:
    kinds = {"quick_gelu": QuickGelu, "gelu": nn.GELU, "gelu_tanh": lambda: nn.GELU(approximate="tanh")}
    if name not in kinds:
        raise ValueError(f"unknown activation {name!r}: choose one of {', '.join(kinds)}")
    return kinds[name]()


class Attention(nn.Module):
    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"a width of {width} cannot be split over {heads} attention heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "#b 1 #n n"] | None = None, causal: bool = False
    ) -> Float[Tensor, "b n d"]:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out(rearrange(x, "b h n d -> b n (h d)"))


class Mlp(nn.Module):
    def __init__(self, *, width: int, hidden_width: int, activation_name: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.activation = activation(activation_name)
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, *, width: int, heads: int, mlp_ratio: float, activation_name: str, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width=width, heads=heads)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width=width, hidden_width=round(width * mlp_ratio), activation_name=activation_name)

    def forward(
        self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "#b 1 #n n"] | None = None, causal: bool = False
    ) -> Float[Tensor, "b n d"]:
        x = x + self.attention(self.norm1(x), mask=mask, causal=causal)
        return x + self.mlp(self.norm2(x))


def blocks(
    *, layers: int, width: int, heads: int, mlp_ratio: float, activation_name: str, norm_eps: float
) -> nn.ModuleList:
    """A stack with CLIP's initialisation: the maps that write to the residual stream shrink with its depth."""
    stack = nn.ModuleList(
        Block(width=width, heads=heads, mlp_ratio=mlp_ratio, activation_name=activation_name, norm_eps=norm_eps)
        for _ in range(layers)
    )
    for block in stack:
        nn.init.normal_(block.attention.qkv.weight, std=width**-0.5)
        nn.init.normal_(block.attention.out.weight, std=width**-0.5 * (2 * layers) ** -0.5)
        nn.init.normal_(block.mlp.fc1.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.fc2.weight, std=width**-0.5 * (2 * layers) ** -0.5)
        nn.init.zeros_(block.attention.qkv.bias)
        nn.init.zeros_(block.attention.out.bias)
    return stack


def attention_heads(width: int, heads: int | None, name: str) -> int:
    """`heads`, or CLIP's rule of one head for every 64 of width."""
    if heads is None and width % 64:
        raise ValueError(f"a width of {width} does not tell the number of attention heads (width / 64): give {name}")
    return width // 64 if heads is None else heads
