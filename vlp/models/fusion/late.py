"""Late interaction: each word is compared with the places of the image that it looks at; a pair's score is their mean.

FILIP (Yao et al., arXiv:2111.07783, equations 4 and 5) takes a word's best place; SCAN (Lee et al., arXiv:1803.08024,
equations 1 to 4) a softmax over places with an inverse temperature λ, as here. With unit vectors w of words and p of places

    s(image, text) = 1/τ · mean over w of ⟨w, Σ_p softmax_p(λ ⟨w, p⟩) p⟩

One matrix product scores all pairs of a batch, so a contrast over all of them costs no more than one over a few.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlp.models.layers import Dropout, masked_mean, residual_network
from vlp.models.tokens import real_mask
from vlp.structures import Tokens


class LateFusion(nn.Module):
    """image_width, text_width: of the towers' states, which pass z = W · dropout(norm(state)), then z + V₂ · dropout(gelu(V₁
    · norm(z))), where V₂ starts at zero, into a space of `width`.  hidden_width: of V₁; None = the linear map alone.
    temperature: τ at first.  max_scale: 1/τ never exceeds it.  sharpness: λ at first.
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
    ) -> None:
        super().__init__()
        self.width, self.max_scale = width, max_scale
        self.image_input, self.text_input = (
            nn.Sequential(nn.LayerNorm(wide), Dropout(dropout), nn.Linear(wide, width))
            for wide, dropout in ((image_width, image_dropout), (text_width, text_dropout))
        )
        self.image_residual = residual_network(width, hidden_width, image_dropout)
        self.text_residual = residual_network(width, hidden_width, text_dropout)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def scale(self) -> Float[Tensor, ""]:
        return self.log_scale.clamp(max=math.log(self.max_scale)).exp()

    def remember(self, image: Tokens) -> Tokens:
        """Unit vectors of the places."""
        z = self.image_input(image.states)
        z = z if self.image_residual is None else z + self.image_residual(z)
        return Tokens(states=F.normalize(z, dim=-1), pooled=image.pooled, mask=image.mask, grid=image.grid)

    def _words(self, states: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows k"]:
        z = self.text_input(states)
        return F.normalize(z if self.text_residual is None else z + self.text_residual(z), dim=-1)

    def forward(self, text: Tokens, *images: Tokens) -> Tokens:
        """The states are each word times what it looks at, channel by channel.  images: what `remember` made of one image for
        each text, or of one that all look at."""
        (image,) = images
        words = self._words(text.states)
        places, seen = image.states.expand(len(words), -1, -1), real_mask(image)
        look = self._look(einsum(words, places, "b n d, b p d -> b n p"), seen[:, None, :])
        states = words * einsum(look, places, "b n p, b p d -> b n d")
        return Tokens(
            states=states, pooled=masked_mean(_at_least_single(states), text.mask), mask=text.mask, ids=text.ids
        )

    def score(self, text: Tokens, image: Tokens) -> Float[Tensor, " r"]:
        """s of row i of the texts with row i of what `remember` made of the images, or with the one image that there is."""
        return self.scale() * self(text, image).pooled.sum(-1)

    def all_pairs(self, text: Tokens, image: Tokens) -> Float[Tensor, "r b"]:
        """s of every text with every image."""
        real = real_mask(text)
        words, owner = self._words(text.states[real]), real.nonzero()[:, 0]  # padding would be half of the work
        cosine = einsum(words, image.states, "w d, b p d -> w b p")
        found = _at_least_single((self._look(cosine, real_mask(image)) * cosine).sum(-1))
        total = found.new_zeros(len(real), found.shape[1]).index_add(0, owner, found)
        return self.scale() * total / real.sum(1, keepdim=True)

    def _look(self, cosine: Float[Tensor, "*rows p"], seen: Bool[Tensor, "*#rows p"]) -> Float[Tensor, "*rows p"]:
        logits = self.sharpness * cosine
        if not bool(seen.all()):
            logits = logits.masked_fill(~seen, torch.finfo(logits.dtype).min)
        return logits.softmax(-1)


def _at_least_single(x: Tensor) -> Tensor:
    """Means of half precision are coarse."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
