"""Which samples form which batch: a pure function of (seed, epoch), never of history, workers or ranks.

A global batch p[k : k + G] of the epoch's permutation p is shared out in consecutive parts, so what the ranks gather
stands in the order of one process: any world size that divides G trains on the same global batches, and a run may resume
on another number of processes. The position is counted in samples of all ranks. The last, incomplete global batch of an
epoch is left out: all ranks make equal steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler

from vlp import distributed
from vlp.random import mix, permutation
from vlp.system.errors import UserError

Key = tuple[int, int]  # (epoch, index into the split)


@runtime_checkable
class EpochOrder(Protocol):
    """The samples of an epoch in the order of training; a slice is a tensor of their numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: slice, /) -> Tensor: ...


ORDER, ROUND = 1, 2  # what a permutation is for, mixed into its seed


class TrainSampler(Sampler[list[Key]]):
    """A batch sampler of this rank's part of each global batch.

    batch_size: of all ranks together.  owner: the image of each sample where an image has several samples (one for
    each caption); then no global batch holds an image twice.  order: of an epoch, instead of a permutation of all samples;
    a function of its number.  rank, world: those of the process group by default.
    """

    def __init__(
        self,
        *,
        length: int,
        batch_size: int,
        seed: int,
        owner: Int[Tensor, " length"] | None = None,
        order: Callable[[int], EpochOrder] | None = None,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        self.length, self.batch_size, self.seed, self.owner, self._order = length, batch_size, seed, owner, order
        self.rank = distributed.rank() if rank is None else rank
        self.world = distributed.world_size() if world is None else world
        if batch_size < 1 or batch_size % self.world:
            raise UserError(
                f"data.batch_size={batch_size} (over all processes) must be a multiple of {self.world} processes"
            )
        usable = length if owner is None else sum(len(round) for round in self._rounds(torch.arange(length)))
        self.steps_per_epoch = usable // batch_size
        if self.steps_per_epoch == 0:
            images = length if owner is None else len(owner.unique())
            raise UserError(
                f"the training split has {length} samples of {images} images, too few for one batch of {batch_size} "
                f"different images: set data.batch_size to at most {images}"
            )
        self.epoch = 0
        self._resume = self.begun = (0, 0)  # begun: epoch and first sample of the latest iteration

    @property
    def sampler(self) -> TrainSampler:
        """Lightning looks for `set_epoch` here."""
        return self

    @property
    def samples_per_epoch(self) -> int:
        return self.steps_per_epoch * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        # Lightning may still count the epoch whose last sample a checkpoint has seen
        self.epoch = max(epoch, self._resume[0])

    def start(self, epoch: int, consumed: int) -> None:
        """The point from which every iteration of this epoch begins; `consumed` counts samples of all ranks."""
        if consumed < 0 or consumed % self.batch_size:
            raise UserError(
                f"{consumed} samples are no whole number of batches of {self.batch_size}: keep the data.batch_size"
            )
        self._resume = self.begun = self._position(epoch, consumed)
        self.epoch = self._resume[0]

    def state_dict(self, *, epoch: int, consumed: int) -> dict[str, Any]:
        """The position, with what it depends on; the caller knows how many batches were really used."""
        epoch, consumed = self._position(epoch, consumed)
        return {"epoch": epoch, "consumed": consumed, **self._facts()}

    def _position(self, epoch: int, consumed: int) -> tuple[int, int]:
        """The end of an epoch is the beginning of the next."""
        return (epoch, consumed) if consumed < self.samples_per_epoch else (epoch + 1, 0)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        differing = [
            f"{name} {state.get(name)} became {value}"
            for name, value in self._facts().items()
            if state.get(name) != value
        ]
        if differing:
            raise UserError(
                f"cannot resume within the data: {'; '.join(differing)}; use the run's own settings, or start anew"
            )
        self.start(state["epoch"], state["consumed"])

    def _facts(self) -> dict[str, int]:
        facts = {"length": self.length, "batch_size": self.batch_size, "seed": self.seed}
        # an order of its own depends on more than that, which its first samples tell
        return facts if self._order is None else {**facts, "order": mix(*self._order(0)[:64].tolist())}

    def _rounds(self, order: Int[Tensor, " length"]) -> list[Int[Tensor, " n"]]:
        """Samples in groups that hold each image at most once; groups smaller than a batch are left out."""
        assert self.owner is not None
        by_owner = order[torch.argsort(self.owner[order], stable=True)]
        counts = torch.unique_consecutive(self.owner[by_owner], return_counts=True)[1]
        first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        turn = torch.empty_like(order)
        turn[by_owner] = torch.arange(len(order)) - first  # the how-manieth sample of its image this is
        rounds = [order[turn[order] == number] for number in range(int(counts.max()))]
        return [round for round in rounds if len(round) >= self.batch_size]

    def order(self, epoch: int) -> EpochOrder:
        """The samples of an epoch in the order of training, of all ranks."""
        if self._order is not None:
            return self._order(epoch)
        order = permutation(self.length, self.seed, epoch, ORDER)
        if self.owner is None:
            return order[: self.samples_per_epoch]
        joined = torch.empty(0, dtype=torch.int64)
        for number, samples in enumerate(self._rounds(order)):
            samples = samples[permutation(len(samples), self.seed, epoch, ROUND, number)]
            # a batch that began in the round before is completed with images that it does not hold yet: there are
            # enough, as both rounds have at least one batch of different images
            begun = joined[len(joined) // self.batch_size * self.batch_size :]
            repeats = torch.isin(self.owner[samples], self.owner[begun])
            joined = torch.cat([joined, samples[~repeats], samples[repeats]])
        return joined[: self.samples_per_epoch]

    def __len__(self) -> int:
        """Steps of a whole epoch, also when it starts in its middle (Lightning counts on from there)."""
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = self.epoch, self.order(self.epoch)
        self.begun = (epoch, self._resume[1] if epoch == self._resume[0] else 0)
        share = self.batch_size // self.world
        for k in range(self.begun[1] + self.rank * share, self.samples_per_epoch, self.batch_size):
            yield [(epoch, index) for index in order[k : k + share].tolist()]


class EvalSampler(Sampler[list[Key]]):
    """Every sample exactly once over all ranks, without padding.  batch_size: of one rank.

    A rank without any gets one batch of nothing: Lightning leaves out the whole evaluation of a rank without batches, and
    the others would wait for it when they gather.
    """

    def __init__(self, *, length: int, batch_size: int, rank: int | None = None, world: int | None = None) -> None:
        rank = distributed.rank() if rank is None else rank
        world = distributed.world_size() if world is None else world
        self.indices = range(rank, length, world)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return max(1, -(-len(self.indices) // self.batch_size))

    def __iter__(self) -> Iterator[list[Key]]:
        for k in range(0, max(1, len(self.indices)), self.batch_size):
            yield [(0, index) for index in self.indices[k : k + self.batch_size]]
