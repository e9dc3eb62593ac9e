"""A linear map per tower to one width, then the same linear map for both into the joint space.

This is the founding example of the project: ResNet-50 and BERT features, each mapped to 512, then one shared
512 → 512 projection.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.projection.temperature import Temperature


class SharedProjection(Temperature):
    """image_width, text_width: widths of the towers' pooled features.  hidden_width: of the first map.  width: e."""

    def __init__(
        self,
        *,
        image_width: int,
        text_width: int,
        hidden_width: int = 512,
        width: int = 512,
        temperature: float = 0.07,
        logit_bias: float | None = None,
        divisor: bool = False,
    ) -> None:
        super().__init__(temperature=temperature, bias=logit_bias, divisor=divisor)
        self.width = width
        self.image = nn.Linear(image_width, hidden_width)
        self.text = nn.Linear(text_width, hidden_width)
        self.shared = nn.Linear(hidden_width, width)

    def project_image(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        return self.shared(self.image(pooled))

    def project_text(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        return self.shared(self.text(pooled))
