"""Which samples form which batch: a pure function of (seed, epoch), never of history, workers or ranks.

A global batch p[k : k + G] of the epoch's permutation p is divided into consecutive parts, so rows gathered from all ranks
have the order of one process: any world size that divides G trains on the same global batches, and a run may resume
on another number of processes. The position is counted in samples of all ranks. The last, incomplete global batch of an
epoch is dropped, so that all ranks take the same number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler

from vlp import distributed
from vlp.random import mix, permutation
from vlp.system.errors import UserError

SampleKey = tuple[int, int]  # (epoch, index into the split)


@runtime_checkable
class EpochOrder(Protocol):
    """The sample indices of an epoch in training order; slicing gives a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: slice, /) -> Tensor: ...


ORDER_KEY, ROUND_KEY = 1, 2  # what a permutation is for, mixed into its seed


class TrainSampler(Sampler[list[SampleKey]]):
    """A batch sampler of this rank's part of each global batch.

    batch_size: of all ranks together.  owner: the image index of each sample where an image has several samples (one for
    each caption); then no global batch contains an image twice.  order: from an epoch's number to its order; None = a
    permutation of all samples.  rank, world_size: by default, those of the process group.
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
        world_size: int | None = None,
    ) -> None:
        self.length, self.batch_size, self.seed, self.owner, self._order = length, batch_size, seed, owner, order
        self.rank = distributed.rank() if rank is None else rank
        self.world_size = distributed.world_size() if world_size is None else world_size
        if batch_size < 1 or batch_size % self.world_size:
            raise UserError(
                f"data.batch_size={batch_size} (over all processes) must be a multiple of {self.world_size} processes"
            )
        usable = length if owner is None else sum(len(round) for round in self._split_into_rounds(torch.arange(length)))
        self.steps_per_epoch = usable // batch_size
        if self.steps_per_epoch == 0:
            if length == 0:
                raise UserError("the training split has no sample: correct the data's split or files")
            images = length if owner is None else len(owner.unique())
            raise UserError(
                f"the training split has {length} samples of {images} images, too few for one batch of {batch_size} "
                f"different images: set data.batch_size to at most {images}"
            )
        self.epoch = 0
        self._resume_position = self.iteration_start = (0, 0)  # epoch and first sample of the latest iteration

    @property
    def sampler(self) -> TrainSampler:
        """Lightning calls `set_epoch` on a loader's `batch_sampler.sampler`."""
        return self

    @property
    def samples_per_epoch(self) -> int:
        return self.steps_per_epoch * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        # after a resume, Lightning may give the epoch that the checkpoint has completed
        self.epoch = max(epoch, self._resume_position[0])

    def resume_at(self, epoch: int, consumed: int) -> None:
        """Lets every iteration of this epoch begin after `consumed` samples of all ranks."""
        if consumed < 0 or consumed % self.batch_size:
            raise UserError(
                f"cannot resume after {consumed} samples, which is no multiple of the batch size {self.batch_size}: set "
                "data.batch_size as in the interrupted run"
            )
        self._resume_position = self.iteration_start = self._normalize_position(epoch, consumed)
        self.epoch = self._resume_position[0]

    def state_dict(self, *, epoch: int, consumed: int) -> dict[str, Any]:
        """The position after `consumed` samples, which the caller knows, and the settings that it depends on."""
        epoch, consumed = self._normalize_position(epoch, consumed)
        return {"epoch": epoch, "consumed": consumed, **self._resume_requirements()}

    def _normalize_position(self, epoch: int, consumed: int) -> tuple[int, int]:
        """Replaces the end of an epoch by the start of the next."""
        return (epoch, consumed) if consumed < self.samples_per_epoch else (epoch + 1, 0)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        differing = [
            f"{name} {state.get(name)} became {value}"
            for name, value in self._resume_requirements().items()
            if state.get(name) != value
        ]
        if differing:
            raise UserError(
                f"cannot resume within the data: {'; '.join(differing)}; use the settings of the interrupted run, or start a "
                "new one"
            )
        self.resume_at(state["epoch"], state["consumed"])

    def _resume_requirements(self) -> dict[str, int]:
        """What must be equal for a position to mean the same samples."""
        values = {"length": self.length, "batch_size": self.batch_size, "seed": self.seed}
        # a custom order depends on more settings, so it is compared by its first samples
        return values if self._order is None else {**values, "order": mix(*self._order(0)[:64].tolist())}

    def _split_into_rounds(self, order: Int[Tensor, " length"]) -> list[Int[Tensor, " n"]]:
        """Groups that contain each image at most once, without those smaller than a batch.  order: all samples."""
        assert self.owner is not None
        by_owner = order[torch.argsort(self.owner[order], stable=True)]
        counts = torch.unique_consecutive(self.owner[by_owner], return_counts=True)[1]
        first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        caption_rank = torch.empty_like(order)
        caption_rank[by_owner] = torch.arange(len(order)) - first  # each sample's position among those of its image
        rounds = [order[caption_rank[order] == number] for number in range(int(counts.max()))]
        return [round for round in rounds if len(round) >= self.batch_size]

    def epoch_order(self, epoch: int) -> EpochOrder:
        """The samples of an epoch in training order, of all ranks."""
        if self._order is not None:
            return self._order(epoch)
        order = permutation(self.length, self.seed, epoch, ORDER_KEY)
        if self.owner is None:
            return order[: self.samples_per_epoch]
        epoch_samples = torch.empty(0, dtype=torch.int64)
        for number, samples in enumerate(self._split_into_rounds(order)):
            samples = samples[permutation(len(samples), self.seed, epoch, ROUND_KEY, number)]
            # the incomplete batch of the previous round is completed with images that it does not contain: there are
            # enough, since both rounds have at least one batch of different images
            incomplete = epoch_samples[len(epoch_samples) // self.batch_size * self.batch_size :]
            repeats = torch.isin(self.owner[samples], self.owner[incomplete])
            epoch_samples = torch.cat([epoch_samples, samples[~repeats], samples[repeats]])
        return epoch_samples[: self.samples_per_epoch]

    def __len__(self) -> int:
        """Steps of a full epoch, also after a resume within it (Lightning continues its count)."""
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, order = self.epoch, self.epoch_order(self.epoch)
        self.iteration_start = (epoch, self._resume_position[1] if epoch == self._resume_position[0] else 0)
        rank_size = self.batch_size // self.world_size
        for k in range(self.iteration_start[1] + self.rank * rank_size, self.samples_per_epoch, self.batch_size):
            yield [(epoch, index) for index in order[k : k + rank_size].tolist()]


def evaluated_positions(length: int, counts: Sequence[int]) -> list[int]:
    """Positions in a split of `length` samples that were evaluated, in order.  counts: how many each rank has evaluated."""
    ranks = (range(rank, length, len(counts))[:count] for rank, count in enumerate(counts))
    return sorted(position for positions in ranks for position in positions)


class EvalSampler(Sampler[list[SampleKey]]):
    """Every sample exactly once over all ranks, without padding.  batch_size: of one rank.

    A rank without samples gets one empty batch: Lightning skips the evaluation on a rank without batches, and the other
    ranks would wait for it when they gather.
    """

    def __init__(self, *, length: int, batch_size: int, rank: int | None = None, world_size: int | None = None) -> None:
        rank = distributed.rank() if rank is None else rank
        world_size = distributed.world_size() if world_size is None else world_size
        self.indices = range(rank, length, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return max(1, -(-len(self.indices) // self.batch_size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for k in range(0, max(1, len(self.indices)), self.batch_size):
            yield [(0, index) for index in self.indices[k : k + self.batch_size]]
