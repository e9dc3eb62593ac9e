"""Any image backbone of transformers (ViT, DINOv2, Swin, CLIP's, …), from a hub name, a folder or a plain config."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.text.transformers import build_backbone, remove_unused_pooler
from vlp.models.tokens import check_pool, raster_mean
from vlp.models.vision.normalize import Normalize
from vlp.models.vision.positions import token_grid
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError


class TransformersVision(nn.Module):
    """name, weights, config: as of `TransformersText`.  pool: 'pooler' (the model's own), 'class' or 'average'.
    mean, std: None = those of the folder's preprocessor_config.json, or 0.5 where it has none.

    Images of other sizes and shapes are taken where transformers' model can (`interpolate_pos_encoding`; DINOv2, Swin and
    convolutional ones need no such argument); patches that are not complete are not seen, those of Swin are padded.
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
        for key, parameter in self.backbone.named_parameters():
            if key.endswith("mask_token"):  # of masked pre-training, never used here (DINOv2)
                parameter.requires_grad_(False)
        settings = self.backbone.config
        own_size = getattr(settings, "image_size", None)
        if isinstance(own_size, int) and image_size not in (None, own_size):
            raise UserError(f"this backbone takes images of {own_size} pixels: set model.vision.image_size={own_size}")
        self.pool = pool
        self.image_size: int = image_size or own_size or 224
        resized = any("position_embedding" in name for name, _ in self.backbone.named_parameters())
        self.positions_size = self.image_size if resized else None
        self._resizes_on_request = "interpolate_pos_encoding" in inspect.signature(self.backbone.forward).parameters
        if not hasattr(settings, "hidden_size") and not hasattr(settings, "hidden_sizes"):
            raise UserError(
                f"{type(settings).__name__} has no hidden_size: choose another backbone, or model/vision=timm"
            )
        processor = transformers.ImageProcessingMixin.get_image_processor_dict(name)[0] if name and mean is None else {}
        half = [0.5, 0.5, 0.5]
        self.normalize = Normalize(
            mean=mean or processor.get("image_mean", half), std=std or processor.get("image_std", half)
        )
        if hasattr(settings, "hidden_size"):
            self.width: int = settings.hidden_size
            self.states_width: int = settings.hidden_size
        else:  # the map may be wider than the last stage (MobileViT)
            self.width, self.states_width = self._measure_widths()

    def forward(self, image: Image) -> Tokens:
        pixels = self.normalize(image)
        size: tuple[int, int] = (pixels.shape[2], pixels.shape[3])
        output = self._run_backbone(pixels, size)
        states, grid = output.last_hidden_state, None
        if states.ndim == 4:  # a convolutional backbone's map
            if self.pool == "class":
                raise UserError(
                    f"{type(self.backbone).__name__} has no class token: set model.vision.pool to pooler or average"
                )
            grid = (states.shape[2], states.shape[3])
            states = rearrange(states, "b d h w -> b (h w) d")
        elif isinstance(patch := getattr(self.backbone.config, "patch_size", None), int):
            grid = token_grid(states.shape[1], size, patch)
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

    @torch.no_grad()
    def _measure_widths(self) -> tuple[int, int]:
        """Of the pooled feature and of the states, by a blank image."""
        was_training = self.backbone.training
        self.backbone.eval()
        tokens = self(Image(pixels=torch.zeros(1, 3, self.image_size, self.image_size)))
        self.backbone.train(was_training)
        return tokens.pooled.shape[-1], tokens.states.shape[-1]

    def _run_backbone(self, pixels: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Any:
        other_size = size != (self.image_size, self.image_size)
        options = {"interpolate_pos_encoding": True} if other_size and self._resizes_on_request else {}
        try:
            return self.backbone(pixel_values=pixels, return_dict=True, **options)
        except (ValueError, RuntimeError) as error:
            if not other_size or isinstance(error, torch.OutOfMemoryError):
                raise
            raise UserError(
                f"transformers' {type(self.backbone).__name__} does not take images of {size[0]} x {size[1]} pixels "
                f"({str(error).splitlines()[0]}): give the transform its size, image_size={self.image_size}"
            ) from error

    def architecture(self) -> dict[str, Any]:
        return {
            "name": None,
            "weights": False,
            "config": self.backbone.config.to_dict(),
            "pool": self.pool,
            "image_size": self.image_size,
            **self.normalize.architecture(),
        }
