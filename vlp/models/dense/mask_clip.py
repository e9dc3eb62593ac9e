"""Zero-shot segmentation by a native CLIP ViT without training: in its last block each token attends to itself alone, so its value
stays where it is, and passes on as the class token does (Zhou et al., "Extract Free Dense Labels from CLIP", arXiv:2112.01071,
§3.2; chongzhou96/MaskCLIP mmseg/models/backbones/vit.py, `return_qkv`)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vlp.models.layers import PreNormBlock
from vlp.models.levels import NO_RASTER_WITH_MERGING
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError


def value_states(block: PreNormBlock, x: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
    """The block's output where each row's attention is 1 at itself."""
    width = x.shape[1]
    values = F.linear(block.norm1(x), block.attention.qkv.weight[2 * width :], block.attention.qkv.bias[2 * width :])
    x = x + block.attention.out(values)
    return x + block.mlp(block.norm2(x))


def check_mask_clip(model: VisionLanguageModel) -> None:
    """Raises UserError for a vision tower that is no native ViT with a class token or the mean as its pooled feature."""
    tower = model.part("vision")
    blocks = getattr(tower, "blocks", None) or [None]
    if not isinstance(blocks[-1], PreNormBlock) or getattr(tower, "pool", None) not in ("class", "average"):
        raise UserError(
            f"head=zero_shot reads the values of a native CLIP ViT's last block, and model.vision is {type(tower).__name__}: "
            "choose model=clip_vit_b16 or another head"
        )


def project_patches(model: VisionLanguageModel, image: Image) -> tuple[Tokens, Float[Tensor, "b n e"]]:
    """The tower's tokens, and each patch of their grid in the joint space, not of unit length."""
    check_mask_clip(model)
    tower: Any = model.part("vision")
    inputs: list[Tensor] = []
    hook = tower.blocks[-1].register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        tokens = tower(image)
    finally:
        hook.remove()
    if tokens.grid is None:
        raise UserError(NO_RASTER_WITH_MERGING)
    rows, columns = tokens.grid
    batch = image.pixels.shape[0]
    states = rearrange(value_states(tower.blocks[-1], inputs[-1]), "(b n) d -> b n d", b=batch)
    embeds = model.part("projection").project_image(tower.norm_post(states[:, -rows * columns :]).flatten(0, 1))
    return tokens, embeds.unflatten(0, (batch, rows * columns))


def embed_pixels(model: VisionLanguageModel, image: Image) -> Float[Tensor, "b e h w"]:
    """Of each patch in the joint space, of unit length."""
    tokens, embeds = project_patches(model, image)
    assert tokens.grid is not None
    return rearrange(F.normalize(embeds, dim=-1), "b (h w) e -> b e h w", h=tokens.grid[0])


def text_logits(
    model: VisionLanguageModel, pixels: Float[Tensor, "b e h w"], texts: Float[Tensor, "c e"]
) -> Float[Tensor, "b c h w"]:
    """With the model's temperature."""
    rows = rearrange(pixels, "b e h w -> (b h w) e")
    return rearrange(
        model.similarity(rows, texts.to(rows)),
        "(b h w) c -> b c h w",
        b=pixels.shape[0],
        h=pixels.shape[2],
        w=pixels.shape[3],
    )


@torch.no_grad()
def zero_shot_logits(model: VisionLanguageModel, image: Image, texts: Float[Tensor, "c e"]) -> Float[Tensor, "b c h w"]:
    return text_logits(model, embed_pixels(model, image), texts)
