"""ViLT's image embedder: images of any shape, padding that changes nothing, and the draw of patches in training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlp.data.collate import pad_images
from vlp.models.vision.vilt_patches import ViltPatches
from vlp.structures import Image

SIZES = ((16, 24), (32, 8), (16, 16), (27, 33))  # the last has complete patches of 3 rows and 4 columns


def tower(**options: object) -> ViltPatches:
    torch.manual_seed(0)
    made = ViltPatches(image_size=32, patch_size=8, width=12, **options)  # type: ignore[arg-type]
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


def pictures() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES]


@torch.no_grad()
def test_a_patch_is_a_strided_convolution_and_its_place() -> None:
    embedder, pixels = tower(), torch.randn(2, 3, 32, 32)
    tokens = embedder(Image(pixels=pixels))
    x = F.conv2d(pixels, embedder.patches.weight, embedder.patches.bias, stride=8).flatten(2).transpose(1, 2)
    first = embedder.class_token.expand(2, 1, -1)
    torch.testing.assert_close(tokens.states, torch.cat([first, x], 1) + embedder.positions, atol=1e-4, rtol=1e-4)
    assert tokens.grid == (4, 4)
    assert tokens.mask is None


@torch.no_grad()
def test_positions_stretch_from_corner_to_corner() -> None:
    embedder = tower()
    torch.nn.init.zeros_(embedder.patches.weight)
    torch.nn.init.zeros_(embedder.patches.bias)
    tokens = embedder(Image(pixels=torch.zeros(1, 3, 56, 16)))
    states = tokens.states[0, 1:].view(7, 2, -1)
    stored = embedder.positions[1:].view(4, 4, -1)
    assert tokens.grid == (7, 2)
    torch.testing.assert_close(states[[0, 2, 4, 6]], stored[:, [0, 3]])
    torch.testing.assert_close(states[1], (stored[0, [0, 3]] + stored[1, [0, 3]]) / 2)


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    embedder, every = tower(), pictures()
    tokens = embedder(pad_images(every))
    assert tokens.mask is not None
    assert tokens.grid is None
    assert tokens.mask.sum(1).tolist() == [1 + 2 * 3, 1 + 4 * 1, 1 + 2 * 2, 1 + 3 * 4]
    for row, pixels in enumerate(every):
        alone = embedder(Image(pixels=pixels[None]))
        assert alone.mask is None
        torch.testing.assert_close(tokens.states[row][tokens.mask[row]], alone.states[0])
    assert (tokens.states[~tokens.mask] == 0).all()


@torch.no_grad()
def test_pixels_of_padding_have_no_effect() -> None:
    embedder, padded = tower(), pad_images(pictures())
    assert padded.size is not None
    other = padded.pixels.clone()
    for image, (rows, columns) in zip(other, padded.size.tolist(), strict=True):
        image[:, rows:] = 77
        image[:, :, columns:] = 200
    torch.testing.assert_close(
        embedder(Image(pixels=other, size=padded.size)).states, embedder(padded).states, atol=0, rtol=0
    )


@torch.no_grad()
def test_images_of_one_size_need_no_mask_however_they_are_padded() -> None:
    embedder, pixels = tower(), torch.randn(2, 3, 16, 24)
    plain = embedder(Image(pixels=pixels))
    padded = embedder(Image(pixels=F.pad(pixels, (0, 8, 0, 16)), size=torch.tensor([[16, 24]] * 2)))
    assert padded.mask is None
    assert padded.grid == plain.grid == (2, 3)
    torch.testing.assert_close(padded.states, plain.states)


@torch.no_grad()
def test_bytes_are_normalised_to_plus_and_minus_one() -> None:
    embedder = tower()
    raw = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    ready = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    torch.testing.assert_close(embedder(Image(pixels=raw)).states, embedder(Image(pixels=ready)).states)


@torch.no_grad()
def test_training_draws_patches_and_evaluation_takes_all() -> None:
    embedder, padded = tower(max_patches=5, dropout=0.0), pad_images(pictures())
    complete = embedder(padded)
    assert complete.mask is not None
    embedder.train()
    draws = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        tokens = embedder(padded)
        assert tokens.mask is not None
        assert tokens.mask.sum(1).tolist() == [6, 5, 5, 6]
        assert tokens.grid is None
        draws.append(tokens.states)
        for row in range(4):  # a sequence of the complete's own states, in their order
            distance = torch.cdist(tokens.states[row][tokens.mask[row]], complete.states[row][complete.mask[row]])
            position = distance.argmin(1)
            assert distance.min(1).values.max() < 1e-4
            assert (position.diff() > 0).all()
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
    assert embedder(Image(pixels=torch.randn(2, 3, 8, 16))).grid == (1, 2)  # no more than five


def test_a_gradient_reaches_every_parameter() -> None:
    embedder = tower()
    (embedder(pad_images(pictures())).states.sin()).sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in embedder.parameters())


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image(pixels=torch.zeros(1, 3, 6, 20)), "6 x 20 pixels has no complete patch of 8"),
        (
            Image(pixels=torch.zeros(1, 3, 16, 20), size=torch.tensor([[16, 7]])),
            "16 x 7 pixels has no complete patch of 8",
        ),
        (Image(pixels=torch.zeros(1, 3, 16, 16), size=torch.tensor([[16, 24]])), "larger than their 16 x 16 pixels"),
    ],
)
def test_images_without_complete_patches(image: Image, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tower()(image)


def test_at_least_one_patch() -> None:
    with pytest.raises(ValueError, match="max_patches=0: keep at least one patch"):
        tower(max_patches=0)
