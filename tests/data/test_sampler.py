from __future__ import annotations

import pytest
import torch

from vlp.data.sampler import EvalSampler, TrainSampler


def train_sampler(**changed: object) -> TrainSampler:
    return TrainSampler(**{"length": 37, "batch_size": 8, "seed": 3, "rank": 0, "world_size": 1, **changed})  # type: ignore[arg-type]


def epoch_of(world: int, epoch: int, **changed: object) -> list[set[int]]:
    """The global batches as the ranks together see them."""
    parts = []
    for rank in range(world):
        sampler = train_sampler(rank=rank, world_size=world, **changed)
        sampler.set_epoch(epoch)
        parts.append([[index for e, index in batch if e == epoch] for batch in sampler])
    assert len({len(part) for part in parts}) == 1, "ranks make different numbers of steps"
    joined = [[index for batch in batches for index in batch] for batches in zip(*parts, strict=True)]
    assert all(len(set(batch)) == len(batch) == 8 for batch in joined)
    return [set(batch) for batch in joined]


@pytest.mark.parametrize("world", [2, 4, 8])
def test_global_batches_do_not_depend_on_the_number_of_processes(world: int) -> None:
    for epoch in (0, 1):
        assert epoch_of(world, epoch) == epoch_of(1, epoch)


def test_an_epoch_visits_each_sample_at_most_once_and_epochs_differ() -> None:
    first, second = epoch_of(1, 0), epoch_of(1, 1)
    assert len(first) == 4
    assert len(set().union(*first)) == 32
    assert first != second
    assert epoch_of(1, 0, seed=4) != first


def test_resuming_gives_the_rest_of_the_epoch_at_every_iteration() -> None:
    straight = train_sampler()
    straight.set_epoch(2)
    whole = list(straight)
    resumed = train_sampler()
    resumed.resume_at(2, 16)
    assert list(resumed) == whole[2:]
    assert list(resumed) == whole[2:]
    resumed.set_epoch(2)
    assert list(resumed) == whole[2:]
    resumed.set_epoch(3)
    straight.set_epoch(3)
    assert list(resumed) == list(straight)
    assert len(resumed) == 4


def test_resuming_on_another_number_of_processes_goes_on_with_the_same_batches() -> None:
    whole = epoch_of(1, 1)
    parts = []
    for rank in range(4):
        sampler = train_sampler(rank=rank, world_size=4)
        sampler.load_state_dict(train_sampler().state_dict(epoch=1, consumed=8))
        parts.append(list(sampler))
    joined = [{index for batch in batches for _, index in batch} for batches in zip(*parts, strict=True)]
    assert joined == whole[1:]


def test_a_finished_epoch_resumes_with_the_next_even_when_the_loop_lags_behind() -> None:
    sampler = train_sampler()
    sampler.resume_at(1, 32)
    assert sampler.epoch == 2
    sampler.set_epoch(1)
    assert next(iter(sampler))[0][0] == 2


@pytest.mark.parametrize("changed", [{"length": 38}, {"batch_size": 4}, {"seed": 9}])
def test_a_position_in_other_data_is_refused(changed: dict[str, int]) -> None:
    state = train_sampler(**changed).state_dict(epoch=0, consumed=8)
    with pytest.raises(ValueError, match=f"cannot resume within the data: {next(iter(changed))}"):
        train_sampler().load_state_dict(state)


def test_impossible_batch_sizes_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="multiple of 3 processes"):
        train_sampler(world_size=3)
    with pytest.raises(ValueError, match=r"7 samples of 7 images, too few .* data.batch_size to at most 7"):
        train_sampler(length=7)
    assert train_sampler(length=8).steps_per_epoch == 1


@pytest.mark.parametrize("counts", [[3] * 11, [1, 9, 2, 5, 1, 1, 3, 3, 3, 4, 2, 8], [5] * 8, [2] * 8 + [5]])
def test_no_batch_holds_two_captions_of_an_image(counts: list[int]) -> None:
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    seen: set[int] = set()
    for epoch in range(20):
        batches = epoch_of(2, epoch, length=len(owner), owner=owner)
        assert all(len({int(owner[index]) for index in batch}) == 8 for batch in batches)
        samples = [index for batch in batches for index in batch]
        assert len(set(samples)) == len(samples)
        seen |= set(samples)
    assert seen == set(range(len(owner))), "some caption never has its turn"


def test_too_few_images_for_a_batch_of_different_ones() -> None:
    with pytest.raises(ValueError, match="20 samples of 4 images, too few"):
        train_sampler(length=20, owner=torch.arange(20) % 4)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 9, 10, 11])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_visits_every_sample_exactly_once(length: int, world: int) -> None:
    samplers = [EvalSampler(length=length, batch_size=2, rank=rank, world_size=world) for rank in range(world)]
    batches = [list(sampler) for sampler in samplers]
    assert [len(b) for b in batches] == [len(s) for s in samplers]
    assert sorted(index for part in batches for batch in part for _, index in batch) == list(range(length))
