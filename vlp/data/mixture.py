"""Training on several data sources: every step has a batch of each, {source: Batch}.

A source's position is a function of the mixture's step alone: before step s it has given s batches, so it is in its epoch
s // n, where n is its number of steps an epoch; a short source begins its next epoch while a long one is in its first.
Nothing depends on workers, on the number of processes or on where the run was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import ConcatDataset

from vlp.data.collate import train_tokenizer
from vlp.data.datamodule import DataModule
from vlp.data.example_dataset import ImageTransform
from vlp.data.loader import Loader, discarded_batches
from vlp.data.mixture_shares import check_temperature, sizes_by_temperature, source_batch_sizes
from vlp.data.sampler import TrainSampler
from vlp.structures import Batch, Sample
from vlp.system.errors import UserError
from vlp.system.renamed import RenamedMethod
from vlp.system.suggest import nearest_option


class MixtureLoader:
    """An iteration is one epoch of the mixture; the next one continues each source where this one ended."""

    def __init__(
        self, as_loader_list: Mapping[str, Loader], samplers: Mapping[str, TrainSampler], *, steps_per_epoch: int
    ) -> None:
        self.loaders, self.samplers, self.steps_per_epoch = dict(as_loader_list), dict(samplers), steps_per_epoch
        self.epoch = 0
        self._resume_position = self.iteration_start = (0, 0)  # epoch and first step of the latest iteration
        self.delivered = 0  # steps of it
        self._streams: dict[str, Iterator[Batch]] = {}
        self._next_step = -1  # the step of the run that the streams give next

    @property
    def sampler(self) -> MixtureLoader:
        """Lightning calls `set_epoch` on a loader's `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        # after a resume, Lightning may give the epoch that the checkpoint has completed
        self.epoch = max(epoch, self._resume_position[0])

    def resume_at(self, epoch: int, step: int) -> None:
        """Lets every iteration of this epoch begin at `step`."""
        self._resume_position = self.iteration_start = (epoch, step) if step < self.steps_per_epoch else (epoch + 1, 0)
        self.epoch, self.delivered = self._resume_position[0], 0

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        self.iteration_start = (self.epoch, self._resume_position[1] if self.epoch == self._resume_position[0] else 0)
        self.delivered = 0
        first = self.iteration_start[0] * self.steps_per_epoch + self.iteration_start[1]
        if first != self._next_step:  # else the streams continue, with batches that their workers have loaded
            self._streams = {
                name: _endless_batches(loader, self.samplers[name], first) for name, loader in self.loaders.items()
            }
        self._next_step = first
        for _ in range(self.iteration_start[1], self.steps_per_epoch):
            self._next_step = -1  # if a source fails, the streams are at different steps
            batch = {name: next(stream) for name, stream in self._streams.items()}
            self.delivered += 1
            self._next_step = first + self.delivered
            yield batch


def _endless_batches(loader: Loader, sampler: TrainSampler, step: int) -> Iterator[Batch]:
    """The batches of a source, epoch after epoch, from a step of the run on.

    No method: a MixtureLoader that its own streams referred to would be left to the garbage collector, which closes the
    pipes to data workers before it ends them, and then waits 5 seconds for each.
    """
    epoch, step = divmod(step, sampler.steps_per_epoch)
    while True:
        sampler.resume_at(epoch, step * sampler.batch_size)
        yield from loader
        epoch, step = epoch + 1, 0


class Mixture(L.LightningDataModule):
    """sources: from each source's name to a function that builds its data module; None removes one. Tokenizer, transform and
    seed are passed to all of them; a source may have its own transform.

    epoch: the source whose epoch is the mixture's, or a number of steps; None = the first source.  batch_size, ratios:
    training samples a step of all sources and processes together, and each source's share; None = each source's batch_size.
    temperature: in place of ratios, shares that are as n^(1/T) for T and a source's n training images (`sizes_by_temperature`).
    """

    def __init__(
        self,
        *,
        name: str,
        sources: Mapping[str, Callable[..., DataModule] | None],
        transform: Mapping[str, ImageTransform],
        tokenizer: Any = None,
        seed: int = 0,
        epoch: str | int | None = None,
        batch_size: int | None = None,
        ratios: Mapping[str, int | float] | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        factories = {key: factory for key, factory in sources.items() if factory is not None}
        if not factories:
            raise UserError("data.sources is empty: give at least one source")
        not_callable = next((key for key, factory in factories.items() if not callable(factory)), None)
        if not_callable is not None:
            suggestion = nearest_option(
                not_callable, [key for key, factory in factories.items() if callable(factory)], count=1
            )
            hint = f":{suggestion}" if suggestion else f"; add data.sources.{not_callable}._target_"
            raise UserError(f"data.sources.{not_callable} has settings but no data set{hint}")
        self.epoch = next(iter(factories)) if epoch is None else epoch
        if self.epoch not in factories if isinstance(self.epoch, str) else self.epoch < 1:
            raise UserError(
                f"data.epoch={self.epoch}: give a source ({', '.join(factories)}) or a number of steps above 0"
            )
        sizes: dict[str, dict[str, int]] = {key: {} for key in factories}
        self.batch_size, self.temperature = batch_size, temperature
        if temperature is not None:
            check_temperature(temperature, batch_size, ratios, len(factories))
        elif ratios is not None or batch_size is not None:
            sizes = {
                key: {"batch_size": size}
                for key, size in source_batch_sizes(batch_size, ratios, list(factories)).items()
            }
        self.name, self.tokenizer = name, tokenizer
        shared_settings = {"tokenizer": tokenizer, "transform": transform, "seed": seed}
        self.sources = {
            key: factory(name=key, **_without_own_settings(shared_settings, factory), **sizes[key])
            for key, factory in factories.items()
        }
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._loader: MixtureLoader | None = None

    # -- as of one data set -----------------------------------------------------------------------------------------

    @property
    def issues_path(self) -> Path | None:
        return next(iter(self.sources.values())).issues_path

    @issues_path.setter
    def issues_path(self, path: Path | None) -> None:
        for source in self.sources.values():
            source.issues_path = path

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self._agreed_names("class_names")

    @property
    def answer_names(self) -> tuple[str, ...] | None:
        return self._agreed_names("answer_names")

    @property
    def segment_names(self) -> tuple[str, ...] | None:
        return self._agreed_names("segment_names")

    @property
    def segment_ids(self) -> tuple[int, ...] | None:
        return self._agreed_names("segment_ids")

    @property
    def segment_things(self) -> tuple[bool, ...] | None:
        return self._agreed_names("segment_things")

    def _agreed_names(self, attribute: str) -> tuple[Any, ...] | None:
        """What all sources have that have any; known after `setup`.  Raises UserError if they differ."""
        names_by_source = {
            name: value for name, source in self.sources.items() if (value := getattr(source, attribute)) is not None
        }
        for one, other in combinations(names_by_source, 2):
            if names_by_source[one] != names_by_source[other]:
                raise UserError(
                    f"{one} and {other} differ in their {attribute.replace('_', ' ')}: use the same for both, or none for one"
                )
        return next(iter(names_by_source.values()), None)

    @property
    def bad_samples(self) -> int:
        return sum(source.bad_samples for source in self.sources.values())

    measured = RenamedMethod("sources_with_split")

    def sources_with_split(self, split: str) -> dict[str, DataModule]:
        """The sources that have samples in a split, in the order of its loaders."""
        return {name: source for name, source in self.sources.items() if len(source.split(split))}

    def split(self, split: str) -> ConcatDataset[Sample]:
        return ConcatDataset([source.split(split) for source in self.sources.values()])  # type: ignore[misc]

    def train_captions(self) -> Iterator[str]:
        for source in self.sources.values():
            yield from source.train_captions()

    # -- Lightning -------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        for source in self.sources.values():
            source.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        if self.temperature is not None and stage in (None, "fit"):
            counts = {name: self._count_images(name) for name in self.sources}
            for name, size in sizes_by_temperature(self.batch_size or 0, counts, self.temperature).items():
                self.sources[name].batch_size = size
        for name, source in self.sources.items():
            try:
                source.read_splits(stage)
            except ValueError as error:
                raise UserError(f"data.sources.{name}: {error}") from error
        train_tokenizer(self.tokenizer, self.train_captions(), stage)

    def _count_images(self, name: str) -> int:
        """Training samples of a source as it lists them."""
        try:
            return len(self.sources[name].split("train"))
        except ValueError as error:
            raise UserError(f"data.sources.{name}: {error}") from error

    @property
    def steps_per_epoch(self) -> int:
        """Known after `setup`."""
        return self.epoch if isinstance(self.epoch, int) else self.sources[self.epoch].steps_per_epoch

    def _make_loader(self) -> MixtureLoader:
        as_loader_list = {name: source.train_dataloader() for name, source in self.sources.items()}
        samplers = {name: source.sampler for name, source in self.sources.items() if source.sampler is not None}
        return MixtureLoader(as_loader_list, samplers, steps_per_epoch=self.steps_per_epoch)

    def train_dataloader(self) -> MixtureLoader:
        if self._loader is None:
            self._loader = self._make_loader()
        return self._loader

    def val_dataloader(self) -> list[Loader]:
        return [
            loader
            for source in self.sources_with_split("val").values()
            for loader in as_loader_list(source.val_dataloader())
        ]

    def test_dataloader(self) -> list[Loader]:
        return [
            loader
            for source in self.sources_with_split("test").values()
            for loader in as_loader_list(source.test_dataloader())
        ]

    def state_dict(self) -> dict[str, Any]:
        """The mixture's next step, and the position in every source that follows from it."""
        if self._loader is None:
            return {}
        epoch, first = self._loader.iteration_start
        step = first + self._loader.delivered - discarded_batches(self.trainer)
        trained = epoch * self.steps_per_epoch + step
        positions = {}
        for name, sampler in self._loader.samplers.items():
            source_epoch, consumed = divmod(trained, sampler.steps_per_epoch)
            position = sampler.state_dict(epoch=source_epoch, consumed=consumed * sampler.batch_size)
            positions[name] = {**position, "identity": self.sources[name].identity()}
        return {"epoch": epoch, "step": step, "steps_per_epoch": self.steps_per_epoch, "sources": positions}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if any(source.sampler is None for source in self.sources.values()):  # not set up for training
            return
        earlier_sources, present_sources = list(state_dict["sources"]), list(self.sources)
        if earlier_sources != present_sources or state_dict["steps_per_epoch"] != self.steps_per_epoch:
            raise UserError(
                f"cannot resume within the data: the run mixed {', '.join(earlier_sources)} in epochs of "
                f"{state_dict['steps_per_epoch']} steps, this one mixes {', '.join(present_sources)} in epochs of "
                f"{self.steps_per_epoch}; use the settings of the interrupted run, or start a new one"
            )
        self._loader = self._make_loader()
        for name, sampler in self._loader.samplers.items():
            self.sources[name].check_identity(state_dict["sources"][name])
            sampler.load_state_dict(state_dict["sources"][name])
        self._loader.resume_at(state_dict["epoch"], state_dict["step"])


def _without_own_settings(shared_settings: Mapping[str, Any], factory: Callable[..., DataModule]) -> dict[str, Any]:
    """The shared settings, except those that the source has itself, such as `data.sources.NAME.transform`."""
    source_settings = getattr(factory, "keywords", {})
    return {key: value for key, value in shared_settings.items() if source_settings.get(key) is None}


def as_loader_list(loader_or_loaders: Loader | list[Loader]) -> list[Loader]:
    return loader_or_loaders if isinstance(loader_or_loaders, list) else [loader_or_loaders]
