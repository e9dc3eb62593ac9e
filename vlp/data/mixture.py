"""Several data sources trained on together: every step has a batch of each, {source: Batch}.

A source's position is a function of the mixture's step alone: at step s it has given s batches, so it is in epoch s // n
of its own, n being the steps of that epoch, and a short source begins its next epoch while a long one is in its first.
Nothing depends on workers, on the number of processes or on where the run was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import ConcatDataset

from vlp.data.datamodule import DataModule
from vlp.data.example_dataset import ImageTransform
from vlp.data.loader import Loader
from vlp.data.sampler import TrainSampler
from vlp.data.trainer_progress import unused_batches
from vlp.structures import Batch, Sample
from vlp.system.errors import UserError
from vlp.system.suggest import nearest_option


class MixtureLoader:
    """An iteration is one epoch of the mixture; the sources go on from one to the next."""

    def __init__(
        self, loaders: Mapping[str, Loader], samplers: Mapping[str, TrainSampler], *, steps_per_epoch: int
    ) -> None:
        self.loaders, self.samplers, self.steps_per_epoch = dict(loaders), dict(samplers), steps_per_epoch
        self.epoch = 0
        self._resume = self.begun = (0, 0)  # begun: epoch and first step of the latest iteration
        self.delivered = 0  # steps of it
        self._streams: dict[str, Iterator[Batch]] = {}
        self._next_step = -1  # the step of the whole run that the streams give next

    @property
    def sampler(self) -> MixtureLoader:
        """Lightning looks for `set_epoch` here."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = max(epoch, self._resume[0])  # Lightning may still count an epoch that a checkpoint has finished

    def start(self, epoch: int, step: int) -> None:
        """The point from which every iteration of this epoch begins."""
        self._resume = self.begun = (epoch, step) if step < self.steps_per_epoch else (epoch + 1, 0)
        self.epoch, self.delivered = self._resume[0], 0

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        self.begun = (self.epoch, self._resume[1] if self.epoch == self._resume[0] else 0)
        self.delivered = 0
        first = self.begun[0] * self.steps_per_epoch + self.begun[1]
        if first != self._next_step:  # else the streams go on, with what their workers have loaded already
            self._streams = {name: self._stream(name, first) for name in self.loaders}
        self._next_step = first
        for _ in range(self.begun[1], self.steps_per_epoch):
            self._next_step = -1  # a source that fails leaves the streams at different steps
            batch = {name: next(stream) for name, stream in self._streams.items()}
            self.delivered += 1
            self._next_step = first + self.delivered
            yield batch

    def _stream(self, name: str, step: int) -> Iterator[Batch]:
        """The batches of a source without end, from a step of the whole run on."""
        sampler = self.samplers[name]
        epoch, step = divmod(step, sampler.steps_per_epoch)
        while True:
            sampler.start(epoch, step * sampler.batch_size)
            yield from self.loaders[name]
            epoch, step = epoch + 1, 0


class Mixture(L.LightningDataModule):
    """sources: makes each source's data module, by its name; None leaves one out. What all of them share (tokenizer,
    transform, seed) is added here; a source may have a transform of its own.

    epoch: the source whose epoch is the mixture's, or a number of steps; None = the first source.  batch_size, ratios:
    training samples a step of all sources and processes together, and each source's share; None = their own sizes.
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
    ) -> None:
        super().__init__()
        makers = {key: make for key, make in sources.items() if make is not None}
        if not makers:
            raise UserError("data.sources is empty: give at least one source")
        unknown = next((key for key, make in makers.items() if not callable(make)), None)
        if unknown is not None:
            near = nearest_option(unknown, [key for key, make in makers.items() if callable(make)], count=1)
            hint = f":{near}" if near else ", which a source needs"
            raise UserError(f"data.sources.{unknown} has settings and names no data set{hint}")
        self.epoch = next(iter(makers)) if epoch is None else epoch
        if self.epoch not in makers if isinstance(self.epoch, str) else self.epoch < 1:
            raise UserError(
                f"data.epoch={self.epoch}: give a source ({', '.join(makers)}) or a number of steps above 0"
            )
        sizes: dict[str, dict[str, int]] = {key: {} for key in makers}
        if ratios is not None or batch_size is not None:
            sizes = {key: {"batch_size": size} for key, size in shares(batch_size, ratios, list(makers)).items()}
        self.name, self.tokenizer = name, tokenizer
        common = {"tokenizer": tokenizer, "transform": transform, "seed": seed}
        self.sources = {
            key: make(name=key, **_unless_given(common, make), **sizes[key]) for key, make in makers.items()
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
        return self._same("class_names")

    @property
    def answer_names(self) -> tuple[str, ...] | None:
        return self._same("answer_names")

    def _same(self, what: str) -> tuple[str, ...] | None:
        """What the sources that have it agree on; known after `setup`."""
        found = {name: value for name, source in self.sources.items() if (value := getattr(source, what)) is not None}
        for one, other in combinations(found, 2):
            if found[one] != found[other]:
                raise UserError(
                    f"{one} and {other} differ in their {what.replace('_', ' ')}: give them the same, or one of them none"
                )
        return next(iter(found.values()), None)

    @property
    def bad_samples(self) -> int:
        return sum(source.bad_samples for source in self.sources.values())

    def measured(self, split: str) -> dict[str, DataModule]:
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
        for name, source in self.sources.items():
            try:
                source.read(stage)
            except ValueError as error:
                raise UserError(f"data.sources.{name}: {error}") from error
        # one tokenizer for all: every rank trains its own, equal one
        if stage in (None, "fit") and self.tokenizer is not None and not getattr(self.tokenizer, "trained", True):
            self.tokenizer.train(self.train_captions())

    @property
    def steps_per_epoch(self) -> int:
        """Known after `setup`."""
        return self.epoch if isinstance(self.epoch, int) else self.sources[self.epoch].steps_per_epoch

    def _make_loader(self) -> MixtureLoader:
        loaders = {name: source.train_dataloader() for name, source in self.sources.items()}
        samplers = {name: source.sampler for name, source in self.sources.items() if source.sampler is not None}
        return MixtureLoader(loaders, samplers, steps_per_epoch=self.steps_per_epoch)

    def train_dataloader(self) -> MixtureLoader:
        if self._loader is None:
            self._loader = self._make_loader()
        return self._loader

    def val_dataloader(self) -> list[Loader]:
        return [loader for source in self.measured("val").values() for loader in loaders(source.val_dataloader())]

    def test_dataloader(self) -> list[Loader]:
        return [loader for source in self.measured("test").values() for loader in loaders(source.test_dataloader())]

    def state_dict(self) -> dict[str, Any]:
        """The step of the mixture up to which was trained, and with it the position in every source."""
        if self._loader is None:
            return {}
        epoch, first = self._loader.begun
        step = first + self._loader.delivered - unused_batches(self.trainer)
        trained = epoch * self.steps_per_epoch + step
        positions = {}
        for name, sampler in self._loader.samplers.items():
            own, consumed = divmod(trained, sampler.steps_per_epoch)
            position = sampler.state_dict(epoch=own, consumed=consumed * sampler.batch_size)
            positions[name] = {**position, "identity": self.sources[name].identity()}
        return {"epoch": epoch, "step": step, "steps_per_epoch": self.steps_per_epoch, "sources": positions}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if any(source.sampler is None for source in self.sources.values()):  # not set up for training
            return
        then, now = list(state_dict["sources"]), list(self.sources)
        if then != now or state_dict["steps_per_epoch"] != self.steps_per_epoch:
            raise UserError(
                f"cannot resume within the data: the run mixed {', '.join(then)} in epochs of "
                f"{state_dict['steps_per_epoch']} steps, this one mixes {', '.join(now)} in epochs of "
                f"{self.steps_per_epoch}; use the run's own settings, or start anew"
            )
        self._loader = self._make_loader()
        for name, sampler in self._loader.samplers.items():
            self.sources[name].check_identity(state_dict["sources"][name])
            sampler.load_state_dict(state_dict["sources"][name])
        self._loader.start(state_dict["epoch"], state_dict["step"])


def _unless_given(common: Mapping[str, Any], make: Callable[..., DataModule]) -> dict[str, Any]:
    """What a source does not bring itself: `data.sources.NAME.transform` is its own way to look at photos."""
    own = getattr(make, "keywords", {})
    return {key: value for key, value in common.items() if own.get(key) is None}


def loaders(made: Loader | list[Loader]) -> list[Loader]:
    return made if isinstance(made, list) else [made]


def shares(batch_size: int | None, ratios: Mapping[str, int | float] | None, names: list[str]) -> dict[str, int]:
    """batch_size · ratio / sum of ratios samples of each source, which must be whole numbers above 0."""
    if batch_size is None or ratios is None or set(ratios) != set(names):
        raise UserError(
            f"data.batch_size={batch_size} and data.ratios={ratios} share out a step among {', '.join(names)}: "
            "give a size and a ratio for each of them, or neither"
        )
    exact = {name: batch_size * ratios[name] / sum(ratios.values()) for name in names}
    whole = {name: round(size) for name, size in exact.items()}
    if any(abs(whole[name] - exact[name]) > 1e-6 or whole[name] < 1 for name in names):
        told = ", ".join(f"{name} {size:.3g}" for name, size in exact.items())
        raise UserError(
            f"data.batch_size={batch_size} by data.ratios is no whole number of samples for each source ({told})"
        )
    return whole
