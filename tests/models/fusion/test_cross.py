"""Cross-attention fusion against torch's post-norm decoder layers with the same weights
(tests/checkpoints/test_albef.py has ALBEF's numbers)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vlp.models.fusion.cross import CrossFusion
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Tokens

SIZES = {"width": 32, "heads": 4, "hidden_width": 48}
MASK = torch.arange(6)[None] < torch.tensor([[4], [6], [1]])


def tokens(rows: int, length: int, width: int = 32, mask: torch.Tensor | None = None) -> Tokens:
    states = torch.randn(rows, length, width, generator=torch.Generator().manual_seed(length))
    return Tokens(states=states, pooled=states[:, 0], mask=mask)


def fusion(**changes: int) -> CrossFusion:
    torch.manual_seed(0)
    made = CrossFusion(**SIZES | {"image_width": 32, "text_width": 32, "layers": 2} | changes)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def test_equals_torchs_decoder_layers() -> None:
    ours = fusion()
    stack = nn.ModuleList(
        nn.TransformerDecoderLayer(32, 4, 48, activation="gelu", layer_norm_eps=1e-12, batch_first=True)
        for _ in range(2)
    ).eval()
    with torch.no_grad():
        for theirs, block in zip(stack, ours.blocks, strict=True):
            cross, own = block.cross_attention, block.attention
            joined = {
                leaf: torch.cat([getattr(cross.query, leaf), getattr(cross.key_value, leaf)])
                for leaf in ("weight", "bias")
            }
            for attention, weight, bias, out in (
                (theirs.self_attn, own.qkv.weight, own.qkv.bias, own.out),
                (theirs.multihead_attn, joined["weight"], joined["bias"], cross.out),
            ):
                attention.in_proj_weight.copy_(weight)
                attention.in_proj_bias.copy_(bias)
                attention.out_proj.load_state_dict(out.state_dict())
            for name, part in (
                ("norm1", block.norm1), ("norm2", block.norm_cross), ("norm3", block.norm2),
                ("linear1", block.mlp.fc1), ("linear2", block.mlp.fc2),
            ):  # fmt: skip
                getattr(theirs, name).load_state_dict(part.state_dict())
        text, image_mask = tokens(3, 6, mask=MASK), torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [True] * 5])
        image = Tokens(states=tokens(3, 5).states, pooled=tokens(3, 5).pooled, mask=image_mask)
        x = text.states
        for theirs in stack:
            x = theirs(x, image.states, tgt_key_padding_mask=~MASK, memory_key_padding_mask=~image_mask)
        found = ours(text, image)
    torch.testing.assert_close(found.states[MASK], x[MASK], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pooled, x[:, 0], rtol=1e-4, atol=1e-5)


def test_an_image_is_projected_once_for_any_number_of_texts() -> None:
    ours, image, index = fusion(), tokens(2, 5), torch.tensor([1, 0, 1])
    memory = ours.project_memory(image).select(index)
    again = Tokens(states=image.states[index], pooled=image.pooled[index])
    torch.testing.assert_close(
        ours(tokens(3, 6, mask=MASK), memory).states, ours(tokens(3, 6, mask=MASK), again).states
    )


def test_padding_changes_nothing() -> None:
    ours, text, image = fusion(), tokens(3, 6, mask=MASK), tokens(3, 5)
    padded = ours(text, image)
    short = Tokens(states=text.states[:1, :4], pooled=text.pooled[:1])
    alone = ours(short, Tokens(states=image.states[:1], pooled=image.pooled[:1]))
    torch.testing.assert_close(alone.states[0], padded.states[0, :4], rtol=1e-4, atol=1e-5)


def test_towers_of_other_widths() -> None:
    ours = fusion(image_width=20, text_width=24)
    assert ours(tokens(3, 6, 24), tokens(3, 5, 20)).states.shape == (3, 6, 32)


def test_two_images_alternate_and_share_keys_and_values() -> None:
    ours, text, first, second = fusion(images=2), tokens(3, 6, mask=MASK), tokens(3, 5), tokens(3, 4)
    assert ours.blocks[0].cross_attention.key_value is ours.blocks[1].cross_attention.key_value
    both = ours(text, first, second).pooled
    torch.testing.assert_close(both, ours(text, ours.project_memory(first), ours.project_memory(second)).pooled)
    assert not torch.allclose(both, ours(text, second, first).pooled)
    with pytest.raises(ValueError, match="takes 2 images at once, and got 1"):
        ours(text, first)


def test_a_model_without_fusion_says_so() -> None:
    with pytest.raises(ValueError, match="this model has no fusion: choose one with model/fusion="):
        VisionLanguageModel().project_memory(tokens(1, 2))
