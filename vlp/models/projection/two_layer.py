"""Maps of two layers into the joint space, as open_clip has them on towers of timm and of transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from vlp.models.projection.linear import LinearProjection


class TwoLayerProjection(LinearProjection):
    """image_hidden_width, text_hidden_width: of that side's W₂ · gelu(W₁ · x); None = one linear map.
    image_hidden_bias, text_hidden_bias: of W₁; that of W₂ is image_bias or text_bias.  The rest as `LinearProjection`.
    """

    def __init__(
        self,
        *,
        image_width: int,
        text_width: int,
        image_hidden_width: int | None = None,
        text_hidden_width: int | None = None,
        image_hidden_bias: bool = True,
        text_hidden_bias: bool = False,
        **linear: Any,
    ) -> None:
        super().__init__(
            image_width=image_hidden_width or image_width, text_width=text_hidden_width or text_width, **linear
        )
        if image_hidden_width is not None:
            first = nn.Linear(image_width, image_hidden_width, bias=image_hidden_bias)
            self.image = nn.Sequential(first, nn.GELU(), self.image)
        if text_hidden_width is not None:
            first = nn.Linear(text_width, text_hidden_width, bias=text_hidden_bias)
            self.text = nn.Sequential(first, nn.GELU(), self.text)
