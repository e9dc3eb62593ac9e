"""Layer norm, dropout and a residual two-layer network on each side: for the features of frozen towers."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.layers import Dropout, residual_network
from vlp.models.projection.linear import LinearProjection


class NormedProjection(LinearProjection):
    """z = W · dropout(norm(x)), then z + V₂ · dropout(gelu(V₁ · norm(z))), where V₂ starts at zero.

    image_dropout, text_dropout: in training.  hidden_width: of the two-layer network; None = none, z is linear.
    The rest as `LinearProjection`.
    """

    def __init__(
        self,
        *,
        image_width: int,
        text_width: int,
        image_dropout: float = 0.0,
        text_dropout: float = 0.0,
        hidden_width: int | None = None,
        **linear: Any,
    ) -> None:
        super().__init__(image_width=image_width, text_width=text_width, **linear)
        self.image_input = nn.Sequential(nn.LayerNorm(image_width), Dropout(image_dropout))
        self.text_input = nn.Sequential(nn.LayerNorm(text_width), Dropout(text_dropout))
        self.image_residual = residual_network(self.width, hidden_width, image_dropout)
        self.text_residual = residual_network(self.width, hidden_width, text_dropout)

    def project_image(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        z = self.image(self.image_input(pooled))
        return z if self.image_residual is None else z + self.image_residual(z)

    def project_text(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        z = self.text(self.text_input(pooled))
        return z if self.text_residual is None else z + self.text_residual(z)
