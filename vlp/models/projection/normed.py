"""Layer norm and dropout before each tower's linear map: for pretrained towers on little data."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.projection.linear import LinearProjection


class NormedProjection(LinearProjection):
    """dropout: of the normalised pooled features, in training.  The rest as `LinearProjection`."""

    def __init__(self, *, image_width: int, text_width: int, dropout: float = 0.0, **linear: Any) -> None:
        super().__init__(image_width=image_width, text_width=text_width, **linear)
        self.image_norm, self.text_norm = nn.LayerNorm(image_width), nn.LayerNorm(text_width)
        self.dropout = nn.Dropout(dropout)

    def project_image(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        return self.image(self.dropout(self.image_norm(pooled)))

    def project_text(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        return self.text(self.dropout(self.text_norm(pooled)))
