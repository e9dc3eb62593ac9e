"""The training order over shards: random, but each shard is read within a short time.

Shards are permuted, and the samples of every `block` consecutive shards are shuffled together. The order is a pure
function of (number of samples of each shard, seed, epoch), as that of other data (vlp/data/sampler.py), which gives exact
resumption and independence of the numbers of processes and workers. Only the order of one block is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from vlp.random import permutation

SHARDS_KEY, SAMPLES_KEY = 3, 4  # distinguish the seeds of permutations; the sampler uses 1 and 2


class BlockOrder:
    """The order of an epoch: `order[start:stop]` are sample numbers, counted over the shards in listed order."""

    def __init__(self, counts: Sequence[int], *, block: int, seed: int, epoch: int) -> None:
        self.seed, self.epoch = seed, epoch
        self._counts = torch.tensor(counts, dtype=torch.int64)
        self._firsts = self._counts.cumsum(0) - self._counts
        shards = permutation(len(counts), seed, epoch, SHARDS_KEY)
        self.blocks = [part.tolist() for part in shards.split(block)]  # shards that are shuffled together
        sizes = torch.tensor([int(self._counts[part].sum()) for part in self.blocks])
        self._ends = sizes.cumsum(0)
        self._cached_block: tuple[int, Int[Tensor, " n"]] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, positions: slice) -> Int[Tensor, " n"]:
        start, stop, _ = positions.indices(len(self))
        parts = [torch.empty(0, dtype=torch.int64)]
        while start < stop:
            number = int(torch.searchsorted(self._ends, start, right=True))
            block_samples = self.block_samples(number)
            first = int(self._ends[number]) - len(block_samples)
            parts.append(block_samples[start - first : stop - first])
            start += len(parts[-1])
        return torch.cat(parts)

    def block_samples(self, number: int) -> Int[Tensor, " n"]:
        """The sample numbers of one block, in training order."""
        if self._cached_block is None or self._cached_block[0] != number:
            ranges = [torch.arange(int(self._counts[s])) + self._firsts[s] for s in self.blocks[number]]
            joined = torch.cat(ranges)
            self._cached_block = number, joined[permutation(len(joined), self.seed, self.epoch, SAMPLES_KEY, number)]
        return self._cached_block[1]

    def next_block_shards(self, shard: int) -> list[int]:
        """The shards of the block that follows this shard's."""
        number = next(number for number, part in enumerate(self.blocks) if shard in part)
        return self.blocks[number + 1] if number + 1 < len(self.blocks) else []


class EpochBlockOrders:
    """From an epoch's number to its order; keeps the latest, and is cheap to send to other processes."""

    def __init__(self, counts: Sequence[int], *, block: int, seed: int) -> None:
        self.counts, self.block, self.seed = list(counts), block, seed
        self._latest: BlockOrder | None = None

    def __call__(self, epoch: int) -> BlockOrder:
        if self._latest is None or self._latest.epoch != epoch:
            self._latest = BlockOrder(self.counts, block=self.block, seed=self.seed, epoch=epoch)
        return self._latest
