"""Late interaction: each word is compared with the image regions that it attends to, and each region with the words.

FILIP (Yao et al., arXiv:2111.07783, equations 4 and 5) takes a word's best region and the mean over words, and each region's best
word; SCAN (Lee et al., arXiv:1803.08024, §3.1) a softmax with an inverse temperature λ instead of the best, as here. Words and
regions also have learned weights α and β, which sum to one: "a" and the sky say little. With unit vectors w and p

    τ s(image, text) = Σ_w α_w ⟨w, Σ_p softmax_p(λ ⟨w, p⟩) p⟩ + Σ_p β_p ⟨p, Σ_w softmax_w(λ ⟨w, p⟩) w⟩

One matrix product scores all pairs of a batch, so a contrast over all of them costs no more than one over a few.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.fusion.attended_similarity import MAX_SHARPNESS, attended_similarity
from vlp.models.layers import Dropout, residual_network
from vlp.models.precision import to_float32
from vlp.models.tokens import real_mask
from vlp.structures import Tokens
from vlp.system.errors import UserError


class LateFusion(nn.Module):
    """image_width, text_width: of the towers' states, which pass z = W · dropout(norm(state)), then z + V₂ · dropout(gelu(V₁
    · norm(z))), where V₂ starts at zero, into a space of `width`; w and p are z / |z|, α and β softmaxes of a linear map of
    norm(z), which starts at zero.
    hidden_width: of V₁; None = the linear map alone.  temperature: τ at first.  max_scale: 1/τ never exceeds it.
    sharpness: λ at first, above 0, never above 40.  bf16: maps and cosines in bfloat16, whatever the rest of the model has; sums
    and scores are at least in single precision in any case.
    Channels of a pooled state sum to τ · s.
    """

    images = 1

    def __init__(
        self,
        *,
        image_width: int,
        text_width: int,
        width: int = 256,
        hidden_width: int | None = None,
        image_dropout: float = 0.0,
        text_dropout: float = 0.0,
        temperature: float = 0.05,
        max_scale: float = 100.0,
        sharpness: float = 10.0,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < sharpness <= MAX_SHARPNESS:
            raise UserError(f"model.fusion.sharpness={sharpness} must be above 0 and at most {MAX_SHARPNESS:g}")
        self.width, self.max_scale, self.bf16 = width, max_scale, bf16
        self.image = _ModalityProjection(image_width, width, hidden_width, image_dropout)
        self.text = _ModalityProjection(text_width, width, hidden_width, text_dropout)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))

    def scale(self) -> Float[Tensor, ""]:
        return self.log_scale.clamp(max=math.log(self.max_scale)).exp()

    def sharpness(self) -> Float[Tensor, ""]:
        return self.log_sharpness.clamp(max=math.log(MAX_SHARPNESS)).exp()

    @torch.no_grad()
    def clamp_parameters(self) -> None:
        """Beyond its bound a parameter would have no gradient to come back by."""
        self.log_scale.clamp_(max=math.log(self.max_scale))
        self.log_sharpness.clamp_(max=math.log(MAX_SHARPNESS))

    def project_memory(self, image: Tokens) -> Tokens:
        """Unit vectors of the regions, and in one more channel what β is the softmax of."""
        with self._autocast(image.states):
            regions, logits = self.image(image.states)
        states = torch.cat([regions, logits], -1)
        return Tokens(states=states, pooled=image.pooled, mask=image.mask, grid=image.grid)

    def forward(self, text: Tokens, *images: Tokens) -> Tokens:
        """The states are each word times the mean region that it attends to, channel by channel.  images: of `project_memory`, one
        image for each text, or one for all."""
        (image,) = images
        flat, alpha, word_mask = *self._encode_words(text), real_mask(text)
        words = flat.new_zeros(*word_mask.shape, self.width).masked_scatter(word_mask[..., None], flat)
        regions, beta, region_mask = *_unpack_regions(image, len(words)), real_mask(image).expand(len(words), -1)
        if not self.training:  # what evaluation ranks
            words, regions = to_float32(words), to_float32(regions)
        with torch.autocast(words.device.type, enabled=False):
            logits = self.sharpness() * einsum(words, regions, "b n d, b p d -> b n p")
            on_regions = logits.masked_fill(~region_mask[:, None, :], -torch.inf).softmax(-1)
            on_words = logits.masked_fill(~word_mask[:, :, None], -torch.inf).softmax(1)
            states = words * einsum(on_regions, regions, "b n p, b p d -> b n d")
            back = regions * einsum(on_words, words, "b n p, b n d -> b p d")
            pooled = einsum(alpha, states, "b n, b n d -> b d") + einsum(beta, back, "b p, b p d -> b d")
        return Tokens(states=states, pooled=pooled, mask=text.mask, ids=text.ids)

    def score(self, text: Tokens, image: Tokens) -> Float[Tensor, " r"]:
        """s of row i of the texts with row i of what `project_memory` made of the images, or with the one image that there is."""
        return self.scale() * self(text, image).pooled.sum(-1)

    def score_all_pairs(self, text: Tokens, image: Tokens) -> Float[Tensor, "r b"]:
        """s of every text with every image."""
        words, alpha, word_mask = *self._encode_words(text), real_mask(text)
        regions, beta = _unpack_regions(image, len(image.states))
        owner, device = word_mask.nonzero()[:, 0], words.device.type
        mixed = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
        dtype = torch.bfloat16 if self.bf16 or mixed else words.dtype
        with torch.autocast(device, enabled=False):
            by_word, by_region = attended_similarity(
                words.to(dtype),
                regions.to(dtype),
                self.sharpness(),
                owner=owner,
                captions=len(word_mask),
                region_mask=real_mask(image),
            )
            total = by_word.new_zeros(len(word_mask), len(regions)).index_add(
                0, owner, by_word * alpha[word_mask][:, None]
            )
            return self.scale() * (total + einsum(beta, by_region, "b p, r b p -> r b"))

    def _encode_words(self, text: Tokens) -> tuple[Float[Tensor, "w d"], Float[Tensor, "b n"]]:
        """Unit vectors of the real words alone, as padding would be half of the work, and α."""
        word_mask = real_mask(text)
        with self._autocast(text.states):
            words, logits = self.text(text.states[word_mask])
        weight = logits.new_full(word_mask.shape, -torch.inf).masked_scatter(word_mask, logits)
        return words, weight.softmax(-1)

    def _autocast(self, states: Tensor) -> AbstractContextManager[object]:
        return torch.autocast(states.device.type, torch.bfloat16) if self.bf16 else nullcontext()


def _unpack_regions(image: Tokens, rows: int) -> tuple[Float[Tensor, "b p d"], Float[Tensor, "b p"]]:
    """Unit vectors, and β."""
    logits = image.states[..., -1].masked_fill(~real_mask(image), -torch.inf)
    return image.states[..., :-1].expand(rows, -1, -1), logits.softmax(-1).expand(rows, -1)


class _ModalityProjection(nn.Module):
    def __init__(self, width_in: int, width: int, hidden_width: int | None, dropout: float) -> None:
        super().__init__()
        self.input = nn.Sequential(nn.LayerNorm(width_in), Dropout(dropout), nn.Linear(width_in, width))
        self.residual = residual_network(width, hidden_width, dropout)
        linear = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(linear.weight)
        self.weight = nn.Sequential(nn.LayerNorm(width), linear)

    def forward(self, states: Float[Tensor, "*rows w"]) -> tuple[Float[Tensor, "*rows d"], Float[Tensor, "*rows 1"]]:
        """Unit vectors, at least in single precision, and the logits of their weights."""
        z = self.input(states)
        z = z if self.residual is None else z + self.residual(z)
        single = torch.promote_types(z.dtype, torch.float32)
        return F.normalize(z.to(single), dim=-1), self.weight(z).to(single)
