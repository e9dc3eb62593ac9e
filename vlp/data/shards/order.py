"""The order of training over shards: random, and yet so that a shard is read in one go.

Shards are permuted, and every `block` of them that follow each other are mixed sample by sample. The order is a pure
function of (number of samples of each shard, seed, epoch), as that of other data (vlp/data/sampler.py), so exact
resumption, equal steps of all processes and other numbers of processes or workers come from there. Only the block that is
being read is ever in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from vlp.random import permutation

SHARDS, SAMPLES = 3, 4  # what a permutation is for, mixed into its seed; 1 and 2 are the sampler's


class BlockOrder:
    """The samples of an epoch: `order[start:stop]` are their numbers, shard by shard as they are listed."""

    def __init__(self, counts: Sequence[int], *, block: int, seed: int, epoch: int) -> None:
        self.seed, self.epoch = seed, epoch
        self._counts = torch.tensor(counts, dtype=torch.int64)
        self._firsts = self._counts.cumsum(0) - self._counts
        shards = permutation(len(counts), seed, epoch, SHARDS)
        self.blocks = [part.tolist() for part in shards.split(block)]  # the shards that are mixed with each other
        sizes = torch.tensor([int(self._counts[part].sum()) for part in self.blocks])
        self._ends = sizes.cumsum(0)
        self._held: tuple[int, Int[Tensor, " n"]] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, positions: slice) -> Int[Tensor, " n"]:
        start, stop, _ = positions.indices(len(self))
        parts = [torch.empty(0, dtype=torch.int64)]
        while start < stop:
            number = int(torch.searchsorted(self._ends, start, right=True))
            samples = self.samples(number)
            first = int(self._ends[number]) - len(samples)
            parts.append(samples[start - first : stop - first])
            start += len(parts[-1])
        return torch.cat(parts)

    def samples(self, number: int) -> Int[Tensor, " n"]:
        """Those of one block, in their order."""
        if self._held is None or self._held[0] != number:
            ranges = [torch.arange(int(self._counts[s])) + self._firsts[s] for s in self.blocks[number]]
            joined = torch.cat(ranges)
            self._held = number, joined[permutation(len(joined), self.seed, self.epoch, SAMPLES, number)]
        return self._held[1]

    def next_shards(self, shard: int) -> list[int]:
        """The shards of the block after that of this shard."""
        number = next(number for number, part in enumerate(self.blocks) if shard in part)
        return self.blocks[number + 1] if number + 1 < len(self.blocks) else []


class BlockOrders:
    """The order of each epoch; a few numbers, which go to any process."""

    def __init__(self, counts: Sequence[int], *, block: int, seed: int) -> None:
        self.counts, self.block, self.seed = list(counts), block, seed
        self._latest: BlockOrder | None = None

    def __call__(self, epoch: int) -> BlockOrder:
        if self._latest is None or self._latest.epoch != epoch:
            self._latest = BlockOrder(self.counts, block=self.block, seed=self.seed, epoch=epoch)
        return self._latest
