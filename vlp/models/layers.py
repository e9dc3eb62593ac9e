"""The transformer of the vision towers and of CLIP's text tower: pre-norm blocks of self-attention and a two-layer perceptron.

Every token passes through the same maps; only `Attention` reads other tokens. So a batch is a flat [rows, width]
tensor, and a `Layout` says which rows belong to which sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vlp.system.errors import UserError


class _QuickGelu(torch.autograd.Function):
    """Saves only x for the backward pass, where x · σ(1.702 x) written in torch saves three tensors of its size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (1.702 * x).sigmoid_().mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        # x σ(1.702 x) = silu(1.702 x) / 1.702, so its derivative is silu's at 1.702 x
        return torch.ops.aten.silu_backward(gradient, 1.702 * x)


class QuickGelu(nn.Module):
    """x · σ(1.702 x), OpenAI CLIP's activation (Hendrycks and Gimpel, arXiv:1606.08415, §2)."""

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        if torch.compiler.is_compiling():  # a graph that is exported has no place for a function of Python
            return x * torch.sigmoid(1.702 * x)
        return _QuickGelu.apply(x)


class _PointwiseLinear(torch.autograd.Function):
    """x Wᵀ + b as a convolution of one pixel, which torch hands to oneDNN: on AMD's CPUs 1.3 to 1.4 times as fast as MKL's
    matrix product (194 against 133 GFLOP/s for [1600, 768] to 3072 on two Zen 4 cores). Weight gradients gain nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _pointwise_convolution(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return (
            _pointwise_convolution(gradient.contiguous(), weight.T.contiguous(), None),
            gradient.T @ x,
            gradient.sum(0),
        )


def _pointwise_convolution(
    x: Float[Tensor, "r d"], weight: Float[Tensor, "e d"], bias: Tensor | None
) -> Float[Tensor, "r e"]:
    pixels = x.view(1, len(x), 1, -1).permute(0, 3, 1, 2)  # [1 d r 1] with channels last: no copy
    return F.conv2d(pixels, weight[:, :, None, None], bias)[0, :, :, 0].T


def linear(x: Float[Tensor, "r d"], weight: Float[Tensor, "e d"], bias: Float[Tensor, " e"]) -> Float[Tensor, "r e"]:
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32 or len(x) < 2:
        return F.linear(x, weight, bias)
    quantised = type(weight) not in (Tensor, nn.Parameter)  # torchao's weights only know linear maps
    if quantised or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():
        return F.linear(x, weight, bias)
    return _PointwiseLinear.apply(x.contiguous(), weight, bias)


class Linear(nn.Linear):
    def forward(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r e"]:
        return linear(x, self.weight, self.bias)


def make_activation(name: str) -> nn.Module:
    kinds: dict[str, Callable[[], nn.Module]] = {
        "quick_gelu": QuickGelu,
        "gelu": nn.GELU,
        "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    }
    if name not in kinds:
        raise UserError(f"unknown activation {name!r}: choose one of {', '.join(kinds)}")
    return kinds[name]()


@dataclass(frozen=True)
class Layout:
    """Position of the rows of a flat [r d] tensor in a [batch, length] grid; `rows` None = they fill it in order.

    Maps work on rows alone, so captions of different lengths cost what their tokens cost, not their padding.
    mask: in place of `rows` in a compiled or exported graph, which cannot know how many rows there will be: then every position
    of the grid is a row, and those where it is False are never read.
    """

    batch: int
    length: int
    rows: Int[Tensor, " r"] | None = None
    mask: Bool[Tensor, "b n"] | None = None

    @classmethod
    def from_mask(cls, mask: Bool[Tensor, "b n"]) -> Layout:
        """Of the real tokens of a padded grid."""
        if torch.compiler.is_compiling():
            return cls(mask.shape[0], mask.shape[1], mask=mask)
        rows = None if bool(mask.all()) else mask.flatten().nonzero()[:, 0]
        return cls(mask.shape[0], mask.shape[1], rows)

    @property
    def full(self) -> bool:
        """Whether every position holds a real token."""
        return self.rows is None and self.mask is None

    def unpack(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "b n d"]:
        """Positions without a row are zero."""
        if self.mask is not None:
            return x.view(self.batch, self.length, -1).masked_fill(~self.mask[..., None], 0.0)
        if self.rows is not None:
            x = x.new_zeros(self.batch * self.length, x.shape[1]).index_copy(0, self.rows, x)
        return x.view(self.batch, self.length, -1)

    def pack(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "r d"]:
        x = x.reshape(self.batch * self.length, -1)
        return x if self.rows is None else x.index_select(0, self.rows)

    def attention_mask(self) -> Bool[Tensor, "b 1 1 n"] | None:
        """True where the grid holds a row."""
        if self.mask is not None:
            return self.mask[:, None, None]
        if self.rows is None:
            return None
        grid = torch.zeros(self.batch * self.length, dtype=torch.bool, device=self.rows.device)
        return grid.index_fill_(0, self.rows, True).view(self.batch, 1, 1, self.length)


def attend(
    q: Float[Tensor, "#b h n k"],
    k: Float[Tensor, "#b g m k"],
    v: Float[Tensor, "#b g m k"],
    mask: Bool[Tensor, "#b 1 #n m"] | Float[Tensor, "#b 1 #n m"] | None = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "_ h n k"]:
    """softmax(q kᵀ / √k) v, Vaswani et al., arXiv:1706.03762, equation 1.  mask: True = is attended to, and floats are added to
    q kᵀ / √k; not together with causal.
    Where keys and values have fewer heads, a divisor g of h, h / g heads in a row share each of them (grouped-query attention:
    Ainslie et al., arXiv:2305.13245, §2.2).

    By torch's function, but for bfloat16 on a CPU: there torch 2.15 takes 2 to 6 times as long as these three steps one by one.
    """
    heads, groups = q.shape[1], k.shape[1]
    if heads != groups and not causal and (mask is None or mask.shape[2] == 1):
        # all queries see the same keys, so those of a group's heads are one longer query, and no key is copied
        longer = rearrange(q, "b (g r) n k -> b g (r n) k", g=groups)
        x = attend(longer, k, v, mask, dropout=dropout)
        return rearrange(x, "b g (r n) k -> b (g r) n k", r=heads // groups)
    if heads != groups:
        k, v = (x.repeat_interleave(heads // groups, dim=1) for x in (k, v))
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)
    score = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if causal:
        mask = score.new_ones(score.shape[-2:], dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        score = score.masked_fill(~mask, torch.finfo(score.dtype).min)
    elif mask is not None:
        score = score + mask
    return torch.matmul(apply_dropout(score.softmax(-1), dropout), v)


class PastKeyValues:
    """Keys and values of one layer's self-attention for the tokens so far, kept while a text is generated."""

    def __init__(self, key_values: Float[Tensor, "b two g n k"]) -> None:
        self.key_values = key_values

    def append(self, key_values: Float[Tensor, "b two g m k"]) -> tuple[Tensor, Tensor]:
        self.key_values = torch.cat([self.key_values, key_values], dim=3)
        return self.key_values[:, 0], self.key_values[:, 1]


class StaticKeyValues(PastKeyValues):
    """In a tensor of one size for all tokens that there may be: these keys and values take the positions `position`, and what is
    behind them is there to be masked."""

    def __init__(self, key_values: Float[Tensor, "b two g n k"], position: Int[Tensor, " m"]) -> None:
        super().__init__(key_values)
        self.position = position

    def append(self, key_values: Float[Tensor, "b two g m k"]) -> tuple[Tensor, Tensor]:
        self.key_values = self.key_values.index_copy(3, self.position, key_values.to(self.key_values.dtype))
        return self.key_values[:, 0], self.key_values[:, 1]


class Attention(nn.Module):
    """key_value_heads: a divisor of `heads`; None = as many (see `attend`).  dropout: of the attention's probabilities, in
    training."""

    def __init__(self, *, width: int, heads: int, key_value_heads: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UserError(f"a width of {width} cannot be split over {heads} attention heads")
        self.heads, self.key_value_heads, self.dropout = heads, num_key_value_heads(heads, key_value_heads), dropout
        self.qkv = Linear(width, width + 2 * self.key_value_heads * (width // heads))
        self.out = Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "r d"],
        layout: Layout,
        mask: Bool[Tensor, "#b 1 #n _"] | None,
        causal: bool,
        past: PastKeyValues | None = None,
    ) -> Float[Tensor, "r d"]:
        """past: of the tokens before these, to which these are added."""
        q, k, v = self.split_heads(layout.unpack(self.qkv(x)))
        if past is not None:
            k, v = past.append(torch.stack([k, v], dim=1))
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, mask, causal=causal, dropout=dropout)
        return self.out(layout.pack(rearrange(x, "b h n d -> b n (h d)")))

    def split_heads(self, qkv: Float[Tensor, "b n e"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [b h n d], keys and values [b g n d]."""
        if self.key_value_heads == self.heads:
            q, k, v = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=self.heads)
            return q, k, v
        parts = rearrange(qkv, "b n (h d) -> b h n d", h=self.heads + 2 * self.key_value_heads)
        q, k, v = parts.split([self.heads, self.key_value_heads, self.key_value_heads], dim=1)
        return q, k, v

    def forward_at_rows(
        self,
        x: Float[Tensor, "r d"],
        layout: Layout,
        keep: Int[Tensor, " b"],
        bias: Float[Tensor, "b 1 1 n"] | None = None,
    ) -> Float[Tensor, "b d"]:
        """The output at the row `keep` of each sample, which attends to all rows of its sample.  bias: as a mask of `attend`."""
        width = x.shape[1]
        q = linear(x[keep], self.qkv.weight[:width], self.qkv.bias[:width])
        q = rearrange(q, "b (h d) -> b h 1 d", h=self.heads)
        both = layout.unpack(linear(x, self.qkv.weight[width:], self.qkv.bias[width:]))
        k, v = rearrange(both, "b n (two g d) -> two b g n d", two=2, g=self.key_value_heads)
        x = attend(q, k, v, layout.attention_mask() if bias is None else bias)
        return self.out(rearrange(x, "b h 1 d -> b (h d)"))


class Mlp(nn.Module):
    """dropout: of the hidden units, in training."""

    def __init__(self, *, width: int, hidden_width: int, activation: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden_width)
        self.activation = make_activation(activation)
        self.dropout = Dropout(dropout)
        self.fc2 = Linear(hidden_width, width)

    def forward(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
        return self.fc2(self.dropout(self.activation(self.fc1(x))))


class PreNormBlock(nn.Module):
    """dropout: after each linear map of what is added to the residual stream, as in timm."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        mlp_ratio: float,
        activation: str,
        norm_eps: float,
        key_value_heads: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width=width, heads=heads, key_value_heads=key_value_heads)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width=width, hidden_width=round(width * mlp_ratio), activation=activation, dropout=dropout)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "r d"],
        layout: Layout,
        mask: Bool[Tensor, "#b 1 #n _"] | None = None,
        causal: bool = False,
        keep: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "_ d"]:
        """keep: the only rows of the output that are read, one for each sample: its last row where `causal`."""
        if keep is None:
            x = x + self.dropout(self.attention(self.norm1(x), layout, mask, causal))
        else:
            x = x[keep] + self.dropout(self.attention.forward_at_rows(self.norm1(x), layout, keep))
        return x + self.dropout(self.mlp(self.norm2(x)))


def build_pre_norm_blocks(
    *,
    layers: int,
    width: int,
    heads: int,
    mlp_ratio: float,
    activation: str,
    norm_eps: float,
    key_value_heads: int | None = None,
) -> nn.ModuleList:
    """A stack with CLIP's initialisation: the maps that write to the residual stream shrink with its depth."""
    stack = [
        PreNormBlock(
            width=width,
            heads=heads,
            mlp_ratio=mlp_ratio,
            activation=activation,
            norm_eps=norm_eps,
            key_value_heads=key_value_heads,
        )
        for _ in range(layers)
    ]
    for block in stack:
        nn.init.normal_(block.attention.qkv.weight, std=width**-0.5)
        nn.init.normal_(block.attention.out.weight, std=width**-0.5 * (2 * layers) ** -0.5)
        nn.init.normal_(block.mlp.fc1.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.fc2.weight, std=width**-0.5 * (2 * layers) ** -0.5)
        nn.init.zeros_(block.attention.qkv.bias)
        nn.init.zeros_(block.attention.out.bias)
    return nn.ModuleList(stack)


def num_heads(width: int, heads: int | None, name: str) -> int:
    """`heads`, or CLIP's rule of one head for every 64 of width."""
    if heads is None and width % 64:
        raise UserError(
            f"a width of {width} is no multiple of 64, so the number of attention heads cannot be derived: give {name}"
        )
    return width // 64 if heads is None else heads


def num_key_value_heads(heads: int, key_value_heads: int | None) -> int:
    """None = as many as heads.  Raises UserError where they do not divide the heads."""
    if key_value_heads is None:
        return heads
    if key_value_heads < 1 or heads % key_value_heads:
        raise UserError(
            f"key_value_heads={key_value_heads} for {heads} attention heads: give a divisor of {heads}, or null for as many"
        )
    return key_value_heads


def apply_dropout(x: Float[Tensor, "*b d"], probability: float) -> Float[Tensor, "*b d"]:
    """Zero with that probability, else x / (1 - probability): dropout of a module in training.

    By torch's function, but on a CPU, where torch 2.15 draws one number at a time: 18 to 21 ns an element at ½ (AMX Xeon).
    Here a draw of 64 bits serves four elements, which rounds the probability to a 65,536th: 4 to 5 ns.
    """
    if probability <= 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 2**-10 <= probability <= 1 - 2**-10:
        return F.dropout(x, probability)
    random_bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    threshold = round(probability * 2**16)
    keep = random_bits.view(torch.int16)[: x.numel()].view(x.shape) >= threshold - 2**15
    return x * keep * (2**16 / (2**16 - threshold))


class Dropout(nn.Dropout):
    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return apply_dropout(x, self.p) if self.training else x


def residual_network(width: int, hidden_width: int | None, dropout: float) -> nn.Sequential | None:
    """Two layers, to be added to what they read; at first they add nothing."""
    if hidden_width is None:
        return None
    last = nn.Linear(hidden_width, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden_width), nn.GELU(), Dropout(dropout), last)
