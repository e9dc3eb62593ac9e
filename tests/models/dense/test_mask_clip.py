from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vlp.models.dense.mask_clip import embed_pixels, zero_shot_logits
from vlp.models.layers import Layout
from vlp.models.projection.linear import LinearProjection
from vlp.models.text.clip_text import ClipText
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image
from vlp.system.errors import UserError


def model(**vision: Any) -> VisionLanguageModel:
    torch.manual_seed(0)
    tower = ClipVit(image_size=32, patch_size=8, width=16, layers=3, heads=2, **vision)
    text = ClipText(vocabulary_size=20, context_length=6, width=12, layers=1, heads=2)
    return VisionLanguageModel(
        vision=tower, text=text, projection=LinearProjection(image_width=16, text_width=12, width=10)
    ).eval()


def image() -> Image:
    return Image(pixels=torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))


def test_attention_of_the_last_block_is_one_at_each_token() -> None:
    """As the block itself with a mask that lets each token attend to itself alone."""
    made, shown = model(), image()
    block, inputs = made.vision.blocks[-1], []
    found = embed_pixels(made, shown)
    block.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    plain = made.encode_image(shown).states[:, 1:]
    states = block(inputs[0], Layout(2, 17), mask=torch.eye(17, dtype=torch.bool)[None, None]).view(2, 17, -1)[:, 1:]
    embeds = [made.projection.project_image(made.vision.norm_post(x).flatten(0, 1)) for x in (states, plain)]
    expected, of_attention = (F.normalize(x, dim=-1).view(2, 16, 10).mT.reshape(2, 10, 4, 4) for x in embeds)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, of_attention, atol=1e-3)


def test_logits_are_cosines_with_the_temperature() -> None:
    made, shown = model(), image()
    texts = F.normalize(torch.randn(3, 10), dim=-1)
    logits = zero_shot_logits(made, shown, texts)
    pixels = embed_pixels(made, shown)
    assert logits.shape == (2, 3, 4, 4)
    cosine = torch.einsum("behw,ce->bchw", pixels, texts)
    torch.testing.assert_close(logits, cosine * float(made.similarity(texts[:1], texts[:1])))
    torch.testing.assert_close(pixels.norm(dim=1), torch.ones(2, 4, 4))


def test_a_tower_without_such_a_block_is_refused() -> None:
    with pytest.raises(UserError, match="SmallCnn"):
        embed_pixels(VisionLanguageModel(vision=SmallCnn(image_size=32, channels=2)), image())
