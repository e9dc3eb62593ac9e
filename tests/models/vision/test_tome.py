"""Token merging: a case computed by hand, sizes, the plain tower where nothing merges, rows that do not depend on each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vlp.models.dense.pixels import raster_of
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vision.tome import Tome, match, merge, set_merging
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image
from vlp.system.errors import UserError

SIDE = 32  # 16 patches


def tower(merging: Tome | None = None, **options: Any) -> ClipVit:
    torch.manual_seed(0)
    sizes = {"image_size": SIDE, "patch_size": 8, "width": 32, "layers": 3, "heads": 2}
    return ClipVit(**sizes | options, merging=merging).eval()


def images(count: int = 3) -> Image:
    generator = torch.Generator().manual_seed(1)
    return Image(pixels=torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator))


def test_the_most_similar_pair_becomes_its_mean_by_size() -> None:
    # even tokens: 0 (the class token), 2 and 4; odd ones: 1 and 3.  Token 4 points as token 3 does, token 2 nearly as token 1.
    keys = torch.tensor([[9.0, 9.0], [1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.0, 5.0]])[None, None]
    source, stays, target = match(keys, 1, protected=1)
    assert (source.tolist(), stays.tolist(), target.tolist()) == ([[2]], [[0, 1]], [[1]])
    x, size = torch.tensor([[10.0, 1.0, 2.0, 3.0, 7.0]])[..., None], torch.tensor([[1.0, 1.0, 1.0, 3.0, 1.0]])
    merged, sizes = merge(x, size, source, stays, target)
    assert merged.flatten().tolist() == [10.0, 2.0, 1.0, (3 * 3.0 + 7.0) / 4]
    assert sizes.tolist() == [[1.0, 1.0, 1.0, 4.0]]
    source, stays, target = match(keys, 2, protected=1)  # both, the more similar one first
    assert (source.tolist(), stays.tolist(), target.tolist()) == ([[2, 1]], [[0]], [[1, 0]])


def test_two_tokens_may_merge_into_one() -> None:
    x = torch.tensor([[3.0, 6.0, 9.0]])[..., None]
    both = torch.tensor([[0, 1]])
    merged, sizes = merge(x, torch.tensor([[1.0, 2.0, 1.0]]), both, both[:, 2:], torch.tensor([[0, 0]]))
    assert (merged.flatten().tolist(), sizes.tolist()) == ([(3 + 12 + 9) / 4], [[4.0]])


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"merged_per_layer": 5}, [5, 5, 3]),  # of the 6 that are left, every second one
        ({"merged_per_layer": 0}, [0, 0, 0]),
        ({"kept_share": 0.5}, [2, 3, 3]),
        ({"kept_share": 1.0}, [0, 0, 0]),
        ({"kept_share": 0.01}, [5, 5, 3]),
    ],
)
def test_tokens_that_each_block_merges(options: dict[str, Any], counts: list[int]) -> None:
    assert Tome(**options).schedule(layers=3, patches=16) == counts
    tokens = tower(Tome(**options))(images())
    assert tokens.states.shape == (3, 17 - sum(counts), 32)
    assert (tokens.grid is None) == any(counts)


@pytest.mark.parametrize("pooled_only", [False, True])
@torch.no_grad()
def test_without_merging_it_is_the_plain_tower_bit_by_bit(pooled_only: bool) -> None:
    plain, merging = (part(images(), pooled_only=pooled_only) for part in (tower(), tower(Tome(merged_per_layer=0))))
    assert torch.equal(plain.states, merging.states)
    assert torch.equal(plain.pooled, merging.pooled)
    assert plain.grid == merging.grid


POOLS: dict[str, dict[str, Any]] = {
    "class": {},
    "average": {"pool": "average", "class_token": False},
    "average of normed": {"pool": "average", "norm_before_pool": True},
    "attention": {"pool": "attention", "class_token": False, "norm_before_pool": True, "pool_mlp_ratio": 2.0},
}


@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS.keys())
@torch.no_grad()
def test_equal_patches_merge_without_a_trace(options: dict[str, Any]) -> None:
    """Patches of two kinds without positions: two states stand for all of them, as many times as there are patches of each."""
    first, second = (torch.tensor(colour)[:, None, None] for colour in ([1.0, -0.5, 0.2], [-0.3, 0.8, 1.0]))
    pixels = first.repeat(2, 1, SIDE, SIDE)
    pixels[0, :, :8] = second  # a quarter of the patches, and in the other image one of them
    pixels[1, :, :8, :8] = second
    plain, merging = tower(**options), tower(Tome(merged_per_layer=2), **options)
    for part in (plain, merging):
        part.positions[int(part.class_token is not None) :] = 0.0
    expected, found = (part(Image(pixels=pixels)) for part in (plain, merging))
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=1e-4, atol=1e-5)
    without = tower(Tome(merged_per_layer=2, proportional=False), **options)
    without.load_state_dict(merging.state_dict())
    assert not torch.allclose(without(Image(pixels=pixels)).pooled, expected.pooled, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_image_alone_is_as_in_a_batch_and_pooled_only_as_pooled() -> None:
    merging, batch = tower(Tome(merged_per_layer=4)), images(4)
    together = merging(batch)
    torch.testing.assert_close(merging(batch, pooled_only=True).pooled, together.pooled, rtol=1e-5, atol=1e-6)
    for row in range(4):
        alone = merging(batch.select(slice(row, row + 1)))
        torch.testing.assert_close(alone.states[0], together.states[row], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone.pooled[0], together.pooled[row], rtol=1e-5, atol=1e-6)


def test_a_gradient_reaches_every_parameter() -> None:
    merging = tower(Tome(kept_share=0.5)).train()
    merging(images()).pooled.square().sum().backward()
    assert [name for name, value in merging.named_parameters() if value.grad is None] == []


def test_a_checkpoint_of_the_plain_tower_fits_and_can_be_merged_later() -> None:
    plain, merging = tower(), tower(Tome(merged_per_layer=3))
    assert plain.state_dict().keys() == merging.state_dict().keys()
    set_merging(VisionLanguageModel(vision=plain), {"merged_per_layer": 3})
    states: list[Tensor] = [part(images()).states for part in (plain, merging)]
    assert torch.equal(*states)
    with pytest.raises(UserError, match="SmallCnn has no blocks of vlp that could merge tokens"):
        set_merging(VisionLanguageModel(vision=SmallCnn(image_size=SIDE, channels=4)), {"kept_share": 0.5})


def test_what_needs_a_raster_says_so() -> None:
    model = VisionLanguageModel(vision=tower(Tome(merged_per_layer=3)))
    with pytest.raises(UserError, match=r"merges tokens .* set model/vision/merging=null"):
        model.encode_image(images(), levels=["blocks.0"])
    with pytest.raises(UserError, match=r"without merging of tokens \(model/vision/merging=null\)"):
        raster_of(model.encode_image(images()))


def test_settings_out_of_range_are_one_sentence() -> None:
    for options in ({}, {"merged_per_layer": 1, "kept_share": 0.5}):
        with pytest.raises(UserError, match="give one of the two"):
            Tome(**options)
    with pytest.raises(UserError, match="merged_per_layer=-1: give 0 or more"):
        Tome(merged_per_layer=-1)
    with pytest.raises(UserError, match=r"kept_share=0\.0: give a share above 0 and at most 1"):
        Tome(kept_share=0.0)
