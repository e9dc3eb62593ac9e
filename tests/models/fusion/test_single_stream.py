"""Single-stream fusion against torch's pre-norm encoder layers with the same weights, for any towers, padding and pairs.

ViLT's own numbers are in tests/checkpoints/test_vilt.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.towers import ToyText, ToyVision, toy_batch
from vlp.data.collate import pad_images
from vlp.models.fusion.single_stream import SingleStreamFusion
from vlp.models.text.bert import BertText
from vlp.models.text.clip_text import ClipText
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vision.vilt_patches import ViltPatches
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Text, Tokens

WORDS = torch.arange(6)[None] < torch.tensor([[4], [6], [1]])
PATCHES = torch.arange(5)[None] < torch.tensor([[5], [2], [3]])


def tokens(rows: int, length: int, width: int = 32, mask: torch.Tensor | None = None, seed: int = 0) -> Tokens:
    states = torch.randn(rows, length, width, generator=torch.Generator().manual_seed(10 * length + seed))
    return Tokens(states=states, pooled=states[:, 0], mask=mask)


def fusion(**changes: object) -> SingleStreamFusion:
    torch.manual_seed(0)
    options = {"image_width": 32, "text_width": 32, "width": 32, "layers": 2, "heads": 4, "mlp_ratio": 1.5}
    made = SingleStreamFusion(**options | changes)  # type: ignore[arg-type]
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_equals_torchs_encoder_layers(masked: bool) -> None:
    ours = fusion()
    x = torch.cat([tokens(3, 6).states + ours.types.weight[0], tokens(3, 5).states + ours.types.weight[1]], dim=1)
    real = torch.cat([WORDS, PATCHES], dim=1) if masked else torch.ones(3, 11, dtype=torch.bool)
    for block in ours.blocks:
        layer = nn.TransformerEncoderLayer(
            32, 4, 48, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        ).eval()
        layer.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
        for theirs, part in (
            (layer.self_attn.out_proj, block.attention.out), (layer.norm1, block.norm1), (layer.norm2, block.norm2),
            (layer.linear1, block.mlp.fc1), (layer.linear2, block.mlp.fc2),
        ):  # fmt: skip
            theirs.load_state_dict(part.state_dict())
        x = layer(x, src_key_padding_mask=~real)
    x = ours.norm(x)
    masks = (WORDS, PATCHES) if masked else (None, None)
    found = ours(tokens(3, 6, mask=masks[0]), tokens(3, 5, mask=masks[1]))
    torch.testing.assert_close(found.states[real], x[real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pooled, torch.tanh(ours.pooler(x[:, 0])), rtol=1e-4, atol=1e-5)
    assert (found.states[~real] == 0).all()
    assert (found.mask is not None) == masked


@pytest.mark.parametrize(("words", "patches"), [(WORDS, None), (None, PATCHES)])
@torch.no_grad()
def test_a_mask_on_one_side_alone(words: torch.Tensor | None, patches: torch.Tensor | None) -> None:
    ours = fusion()
    full = [torch.ones(3, n, dtype=torch.bool) if mask is None else mask for n, mask in ((6, words), (5, patches))]
    found = ours(tokens(3, 6, mask=words), tokens(3, 5, mask=patches))
    expected = ours(tokens(3, 6, mask=full[0]), tokens(3, 5, mask=full[1]))
    torch.testing.assert_close(found.states, expected.states)
    assert found.mask is not None
    assert torch.equal(found.mask, torch.cat(full, dim=1))


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    ours, text, image = fusion(), tokens(3, 6, mask=WORDS), tokens(3, 5, mask=PATCHES)
    padded = ours(text, image)
    for row, (words, patches) in enumerate(zip(WORDS.sum(1).tolist(), PATCHES.sum(1).tolist(), strict=True)):
        alone = ours(
            Tokens(states=text.states[row : row + 1, :words], pooled=text.pooled[row : row + 1]),
            Tokens(states=image.states[row : row + 1, :patches], pooled=image.pooled[row : row + 1]),
        )
        assert alone.mask is None
        torch.testing.assert_close(alone.pooled[0], padded.pooled[row], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.states[0, :words], padded.states[row, :words], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_smaller_image_is_the_same_in_a_padded_batch() -> None:
    """From pixels to the pooled state."""
    torch.manual_seed(0)
    model = VisionLanguageModel(
        vision=ViltPatches(image_size=32, patch_size=8, width=32),
        text=BertText(vocabulary_size=50, context_length=9, width=32, layers=0),
        fusion=fusion(),
    ).eval()
    pictures = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((32, 40), (16, 24), (24, 8))]
    words = Text(ids=torch.randint(1, 50, (3, 6)), mask=WORDS)
    together = model.fuse(model.encode_text(words), model.encode_image(pad_images(pictures))).pooled
    for row, pixels in enumerate(pictures):
        own = model.encode_text(words.select([row]))
        alone = model.fuse(own, model.encode_image(Image(pixels=pixels[None]))).pooled
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_image_is_projected_once_for_any_number_of_texts() -> None:
    ours, image, index = fusion(image_width=20), tokens(2, 5, 20), torch.tensor([1, 0, 1])
    memory = ours.project_memory(image)
    again = ours(tokens(3, 6, mask=WORDS), image.select(index))
    torch.testing.assert_close(ours(tokens(3, 6, mask=WORDS), memory.select(index)).states, again.states)


@torch.no_grad()
def test_each_of_two_images_has_its_own_pass_with_the_text() -> None:
    ours, text = fusion(images=2), tokens(3, 6, mask=WORDS)
    left, right = tokens(3, 5, mask=PATCHES), tokens(3, 4, seed=1)
    both, first = ours(text, left, right), ours(text, left)
    types = ours.types.weight
    types[1] = types[2]
    second = ours(text, right)
    torch.testing.assert_close(both.pooled, torch.cat([first.pooled, second.pooled], dim=1))
    torch.testing.assert_close(both.states, torch.cat([first.states, second.states], dim=1))
    assert both.mask is not None
    assert both.mask.sum(1).tolist() == (2 * WORDS.sum(1) + PATCHES.sum(1) + 4).tolist()


def test_more_images_than_types() -> None:
    with pytest.raises(ValueError, match=r"2 images for a fusion of 1: set model\.fusion\.images"):
        fusion()(tokens(3, 6), tokens(3, 5), tokens(3, 5))
    with pytest.raises(ValueError, match=r"model\.fusion\.images=3"):
        fusion(images=3)


VISION: dict[str, Callable[[], nn.Module]] = {
    "vilt": lambda: ViltPatches(image_size=32, patch_size=8, width=24),
    "vit": lambda: ClipVit(image_size=32, patch_size=8, width=32, layers=1, heads=2),
    "cnn": lambda: SmallCnn(image_size=32, channels=4),
    "toy": lambda: ToyVision(size=32),
}
TEXT: dict[str, Callable[[], nn.Module]] = {
    "vilt": lambda: BertText(vocabulary_size=30, context_length=9, width=40, layers=0),
    "clip": lambda: ClipText(vocabulary_size=30, context_length=9, width=32, layers=1, heads=2),
    "toy": ToyText,
}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("text", TEXT)
def test_every_pair_of_towers(vision: str, text: str) -> None:
    """Of their own widths, trained end to end."""
    torch.manual_seed(0)

    def made(**widths: int) -> SingleStreamFusion:
        return SingleStreamFusion(width=16, layers=1, heads=2, dropout=0.0, **widths)

    model = VisionLanguageModel(vision=VISION[vision](), text=TEXT[text](), fusion=made).train()
    words, pixels = toy_batch(slice(0, 3)).caption, torch.randn(3, 3, 32, 32)
    assert words is not None
    fused = model.fuse(model.encode_text(words), model.project_memory(model.encode_image(Image(pixels=pixels))))
    assert fused.pooled.shape == (3, 16)
    assert fused.states.shape[0] == 3
    fused.pooled.sin().sum().backward()
    assert all(bool(p.grad.any()) for p in model.fusion.parameters() if p is not model.fusion.types.weight)


def test_dropout_works_in_training_alone() -> None:
    ours, text, image = fusion(dropout=0.5), tokens(3, 6), tokens(3, 5)
    assert torch.equal(ours(text, image).pooled, ours(text, image).pooled)
    ours.train()
    assert not torch.equal(ours(text, image).pooled, ours(text, image).pooled)
