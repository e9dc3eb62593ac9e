from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from vlp.data.shards.order import BlockOrder

COUNTS = [5, 1, 40, 0, 17, 8, 23, 2, 9]


@pytest.mark.parametrize("block", [1, 3, 100])
def test_an_epoch_has_every_sample_once(block: int) -> None:
    order = BlockOrder(COUNTS, block=block, seed=3, epoch=1)
    assert len(order) == sum(COUNTS)
    assert order[0 : len(order)].sort().values.tolist() == list(range(sum(COUNTS)))


def test_slices_are_parts_of_the_whole_in_any_order() -> None:
    order = BlockOrder(COUNTS, block=2, seed=3, epoch=1)
    whole = order[0 : len(order)]
    other = BlockOrder(COUNTS, block=2, seed=3, epoch=1)
    for start in (90, 7, 0, 50, 13):
        assert torch.equal(other[start : start + 20], whole[start : start + 20])


def test_epochs_and_seeds_differ() -> None:
    orders = [BlockOrder(COUNTS, block=3, seed=seed, epoch=epoch) for seed, epoch in ((3, 1), (3, 2), (4, 1))]
    first, *others = (order[0 : len(order)].tolist() for order in orders)
    assert all(first != other for other in others)


def test_only_the_shards_of_a_block_are_read_at_a_time() -> None:
    order = BlockOrder(COUNTS, block=3, seed=0, epoch=0)
    shard_of = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
    shards = shard_of[order[0 : len(order)]].tolist()
    for shard in set(shards):
        first, last = shards.index(shard), len(shards) - 1 - shards[::-1].index(shard)
        assert len(set(shards[first : last + 1])) <= 3
    mixed = sum(a != b for a, b in pairwise(shards))
    assert mixed > len(COUNTS), "samples of a block are not mixed"


def test_the_block_that_follows_is_known_beforehand() -> None:
    order = BlockOrder(COUNTS, block=3, seed=0, epoch=0)
    for shard in order.blocks[0]:
        assert order.next_block_shards(shard) == order.blocks[1]
    assert order.next_block_shards(order.blocks[-1][0]) == []
