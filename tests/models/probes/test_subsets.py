from __future__ import annotations

import torch
import torch.nn.functional as F

from vlp.models.probes.subsets import fraction, reserved, shots


def test_shots_are_nested_and_balanced() -> None:
    targets = F.one_hot(torch.arange(100) % 4, 4).bool()
    before: set[int] = set()
    for count in (1, 2, 4, 8, 16):
        chosen = shots(targets, count, seed=0, draw=1)
        assert targets[chosen].sum(0).tolist() == [count] * 4
        assert before <= set(chosen.tolist())
        before = set(chosen.tolist())
    assert len(shots(targets, 64, seed=0, draw=1)) == 100
    assert set(shots(targets, 16, seed=0, draw=2).tolist()) != before


def test_with_several_classes_each_has_its_shots() -> None:
    targets = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) < 0.3
    chosen = shots(targets, 4, seed=0, draw=0)
    assert bool((targets[chosen].sum(0) >= 4).all())
    assert len(chosen) <= 20


def test_fractions_are_nested_and_draws_differ() -> None:
    one, ten, all_ = (set(fraction(1000, share, seed=0, draw=0).tolist()) for share in (0.01, 0.1, 1.0))
    assert (len(one), len(ten), len(all_)) == (10, 100, 1000)
    assert one < ten < all_
    assert one != set(fraction(1000, 0.01, seed=0, draw=1).tolist())
    assert len(fraction(10, 0.001, seed=0, draw=0)) == 1


def test_the_reserved_share_is_the_same_each_time() -> None:
    mask = reserved(50, 0.1, seed=3)
    assert int(mask.sum()) == 5
    assert bool((mask == reserved(50, 0.1, seed=3)).all())
    assert bool((mask != reserved(50, 0.1, seed=4)).any())
