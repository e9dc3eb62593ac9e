"""One linear map per tower into the joint space (CLIP's `visual.proj` and `text_projection`)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.projection.temperature import Temperature
from vlp.system.errors import UserError


class LinearProjection(Temperature):
    """image_width, text_width: widths of the towers' pooled features.
    width: of the joint space, e; None = that of the tower that is not projected.
    project_image, project_text: False where that tower's feature already lies in the joint space (CLIP's
    attention-pooled ResNet, the locked side of LiT).
    divisor: the form in which the temperature is stored, see `Temperature`.
    image_bias, text_bias: CLIP has none.  Initialised as CLIP does: normal of deviation width_in^-0.5.
    """

    def __init__(
        self,
        *,
        image_width: int,
        text_width: int,
        width: int | None,
        project_image: bool = True,
        project_text: bool = True,
        image_bias: bool = False,
        text_bias: bool = False,
        temperature: float = 0.07,
        logit_bias: float | None = None,
        divisor: bool = False,
    ) -> None:
        super().__init__(temperature=temperature, bias=logit_bias, divisor=divisor)
        if width is None:
            if project_image == project_text:
                raise UserError(
                    "projection.width=null is the width of the one tower that is not projected: give a number"
                )
            width = text_width if project_image else image_width
        self.width = width
        self.image = _build_projection("image", image_width, width, project_image, image_bias)
        self.text = _build_projection("text", text_width, width, project_text, text_bias)

    def project_image(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        return self.image(pooled)

    def project_text(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        return self.text(pooled)


def _build_projection(name: str, width_in: int, width: int, project: bool, bias: bool) -> nn.Module:
    if not project:
        if width_in != width:
            raise UserError(
                f"project_{name}=false needs {name} features as wide as the joint space, but they have {width_in}: "
                f"set model.projection.width={width_in}"
            )
        return nn.Identity()
    linear = nn.Linear(width_in, width, bias=bias)
    nn.init.normal_(linear.weight, std=width_in**-0.5)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear
