"""Any image backbone of transformers (ViT, DINOv2, Swin, CLIP's, …), from a hub name, a folder or a plain config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import transformers
from einops import rearrange
from torch import nn

from vlp.models.text.transformers import build_backbone, remove_unused_pooler
from vlp.models.tokens import check_pool, raster_mean
from vlp.models.vision.normalize import Normalize
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError


class TransformersVision(nn.Module):
    """name, weights, config: as of `TransformersText`.  pool: 'pooler' (the model's own), 'class' or 'average'.
    mean, std: None = those of the folder's preprocessor_config.json, or 0.5 where it has none.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        weights: bool = True,
        config: dict[str, Any] | None = None,
        pool: str = "pooler",
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_pool(pool, ("pooler", "class", "average"))
        self.backbone: Any = remove_unused_pooler(build_backbone("vision", name, weights, config), pool)
        settings = self.backbone.config
        own_size = getattr(settings, "image_size", None)
        if isinstance(own_size, int) and image_size not in (None, own_size):
            raise UserError(f"this backbone takes images of {own_size} pixels: set model.vision.image_size={own_size}")
        self.pool = pool
        self.image_size: int = image_size or own_size or 224
        if not hasattr(settings, "hidden_size") and not hasattr(settings, "hidden_sizes"):
            raise UserError(
                f"{type(settings).__name__} has no hidden_size: choose another backbone, or model/vision=timm"
            )
        self.width = settings.hidden_size if hasattr(settings, "hidden_size") else settings.hidden_sizes[-1]
        processor = transformers.ImageProcessingMixin.get_image_processor_dict(name)[0] if name and mean is None else {}
        half = [0.5, 0.5, 0.5]
        self.normalize = Normalize(
            mean=mean or processor.get("image_mean", half), std=std or processor.get("image_std", half)
        )

    def forward(self, image: Image) -> Tokens:
        output = self.backbone(pixel_values=self.normalize(image), return_dict=True)
        states, grid = output.last_hidden_state, None
        if states.ndim == 4:  # a convolutional backbone's map
            if self.pool == "class":
                raise UserError(
                    f"{type(self.backbone).__name__} has no class token: set model.vision.pool to pooler or average"
                )
            grid = (states.shape[2], states.shape[3])
            states = rearrange(states, "b d h w -> b (h w) d")
        elif isinstance(patch := getattr(self.backbone.config, "patch_size", None), int):
            side = self.image_size // patch
            grid = (side, side) if states.shape[1] >= side * side else None
        if self.pool == "pooler":
            if output.get("pooler_output") is None:
                raise UserError(
                    f"{type(self.backbone).__name__} has no pooler: set model.vision.pool to class or average"
                )
            pooled = output.pooler_output.flatten(1)
        elif self.pool == "class":
            pooled = states[:, 0]
        else:
            pooled = raster_mean(states, grid)
        return Tokens(states=states, pooled=pooled, grid=grid)

    def architecture(self) -> dict[str, Any]:
        return {
            "name": None,
            "weights": False,
            "config": self.backbone.config.to_dict(),
            "pool": self.pool,
            "image_size": self.image_size,
            **self.normalize.architecture(),
        }
