"""The projection of a model that has one tower: transformers' CLIPVisionModel, CLIPTextModelWithProjection and their kin."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vlp.system.errors import UserError


class SingleTowerProjection(nn.Module):
    """tower: "image" or "text".  tower_width: of its pooled feature.  width: of the embedding; None = the pooled feature itself."""

    def __init__(self, *, tower: str, tower_width: int, width: int | None = None, bias: bool = False) -> None:
        super().__init__()
        if tower not in ("image", "text"):
            raise UserError(f"unknown tower {tower!r} of a projection: choose image or text")
        self.tower, self.width = tower, width or tower_width
        projection = nn.Identity() if width is None else nn.Linear(tower_width, width, bias=bias)
        self.image = projection if tower == "image" else None
        self.text = projection if tower == "text" else None

    def project_image(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        return self._require(self.image, "images")(pooled)

    def project_text(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        return self._require(self.text, "texts")(pooled)

    def logits(self, image_embed: Float[Tensor, "n e"], text_embed: Float[Tensor, "m e"]) -> Float[Tensor, "n m"]:
        raise UserError(f"this model has a tower for {self.tower}s alone, so it compares no images with texts")

    def _require(self, projection: nn.Module | None, inputs: str) -> nn.Module:
        if projection is None:
            raise UserError(f"this model has a tower for {self.tower}s alone: it embeds no {inputs}")
        return projection
