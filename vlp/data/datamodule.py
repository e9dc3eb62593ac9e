"""What all data sets share: a data set writes only `samples(split)`; the rest is here.

    class Mine(DataModule):
        def samples(self, split: str) -> list[Sample]: ...       # split: "train", "val" or "test"

Order, resumption and randomness: vlp/data/sampler.py. Images that cannot be read: vlp/data/example_dataset.py.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from vlp.data.annotation_files import Folders, existing, inside
from vlp.data.collate import Collate
from vlp.data.example_dataset import Examples, ImageTransform
from vlp.data.issues import Faults, first_five
from vlp.data.loader import Loader, prepare_worker
from vlp.data.packed_samples import PackedSamples, given_fields, without_collection
from vlp.data.sampler import EpochOrder, EvalSampler, TrainSampler
from vlp.data.trainer_progress import unused_batches
from vlp.random import permutation
from vlp.structures import Sample
from vlp.system.errors import UserError

SPLITS = ("train", "val", "test")


class DataModule(L.LightningDataModule):
    """name: the source in the names of logged figures.  root: the folder of the data.  transform: callables "train" and
    "eval" from a PIL image to uint8 [3 h w].  batch_size: training samples a step of all processes together;
    eval_batch_size: of each process.  captions: training captions an image in each epoch, drawn anew ("one", or a
    number), or "all": each caption is a sample of its own, and no batch holds an image twice.
    max_train_samples: a fixed random subset.  timeout: seconds to wait for a worker, 0 = for ever.
    issues_path: see vlp/data/example_dataset.py.
    """

    # known after `setup`, where the data have classes, and where questions have an answer vocabulary
    class_names: tuple[str, ...] | None = None
    answer_names: tuple[str, ...] | None = None

    def __init__(
        self,
        *,
        name: str,
        root: str | Path,
        transform: Mapping[str, ImageTransform],
        tokenizer: Any = None,
        seed: int = 0,
        batch_size: int = 256,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        captions: str | int = "one",
        max_train_samples: int | None = None,
        max_bad_fraction: int | float = 0.01,
        follow_symlinks: bool = False,
        timeout: int | float = 0,
    ) -> None:
        super().__init__()
        if captions not in ("one", "all") and not (isinstance(captions, int) and captions > 0):
            raise UserError(f'data.captions={captions!r}: choose "one", "all" or a number of captions')
        self.name, self.root = name, Path(root).expanduser()
        self.transform = {kind: transform[kind] for kind in ("train", "eval")}
        self.tokenizer, self.seed = tokenizer, seed
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.captions: str | int = 1 if captions == "one" else captions
        self.max_train_samples, self.max_bad_fraction = max_train_samples, max_bad_fraction
        self.follow_symlinks, self.timeout = follow_symlinks, timeout
        self.faults = Faults()  # `vlp data check` puts one here that collects them
        self._listings = Folders()
        self.issues_path: Path | None = None
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer evaluation samples than ranks
        self.sampler: TrainSampler | None = None
        self._train_loader: Loader | None = None
        self._splits: dict[str, Sequence[Sample]] = {}

    # -- what a data set writes ------------------------------------------------------------------------------------

    def samples(self, split: str) -> Sequence[Sample]:
        """The raw samples of "train", "val" or "test"; empty where the data set has none."""
        raise NotImplementedError

    def training_order(self) -> Callable[[int], EpochOrder] | None:
        """The samples of each epoch, for data that are not to be read in any order."""
        return None

    def reading_ahead(self) -> Callable[[int, int], None] | None:
        """Told (epoch, sample) before it is read."""
        return None

    # -- what it may use -------------------------------------------------------------------------------------------

    def inside(self, folder: Path, relative: object, *, place: str) -> Path:
        return inside(folder, relative, place=place, follow_symlinks=self.follow_symlinks, folders=self._listings)

    @property
    def sources(self) -> dict[str, DataModule]:
        """Itself, by name, as a mixture has several."""
        assert self.name is not None  # Lightning's own attribute may be
        return {self.name: self}

    def measured(self, split: str) -> dict[str, DataModule]:
        """The sources that have samples in a split, in the order of its loaders."""
        return self.sources if len(self.split(split)) else {}

    def split(self, split: str) -> Sequence[Sample]:
        """The checked samples of a split; read once."""
        if split not in SPLITS:
            raise UserError(f"there is no split {split!r}: choose from {', '.join(SPLITS)}")
        if split not in self._splits:
            self._splits[split] = self.load(split)
        return self._splits[split]

    def load(self, split: str) -> Sequence[Sample]:
        """What `samples` lists, checked and packed."""
        existing(self.root, what=f"the folder of {self.name}", fix="set data.root, or data_root for all data sets")
        with without_collection():
            return self._load(split)

    def _load(self, split: str) -> Sequence[Sample]:
        samples = self.samples(split)
        if split == "train" and self.max_train_samples is not None:
            kept = permutation(len(samples), 0)[: self.max_train_samples].sort().values
            samples = [samples[index] for index in kept.tolist()]
        self._check(split, samples)  # before they are packed: each look at a packed one makes it anew
        return PackedSamples(samples)

    def _check(self, split: str, samples: Sequence[Sample]) -> None:
        empty = [sample.image.name for sample in samples if not sample.annotated]
        if empty and split != "train":
            raise UserError(
                f"{len(empty)} {split} images of {self.name} have no caption, no question and no class: {first_five(empty)}"
            )
        images = dict.fromkeys(str(sample.image) for sample in samples)  # several questions may be about one
        missing = [image for image in images if not self._listings.is_file(image)]
        if not missing:
            return
        message = (
            f"{len(missing)} of {len(images)} {split} images of {self.name} are not on disk: {first_five(missing)}"
        )
        if split != "train" or len(missing) > self.max_bad_fraction * len(images):
            raise FileNotFoundError(f"{message}; complete the data, or correct data.root")
        warnings.warn(f"{message}; others will take their places", stacklevel=3)

    def fingerprint(self, split: str) -> str:
        """sha256 over the file names, captions, questions and answers of a split, in order: the same data give the same
        on any machine."""
        digest = hashlib.sha256()
        for sample in self.split(split):
            name = os.path.relpath(str(sample.image), str(self.root))
            digest.update("\0".join([name, *told(sample)]).encode() + b"\n")
        return digest.hexdigest()

    def identity(self) -> str:
        """Of the training data wherever they lie, from samples spread over them: names of files, captions, answers."""
        train, digest = self.split("train"), hashlib.sha256()
        for index in range(0, len(train), max(1, len(train) // 256)):
            sample = train[index]
            digest.update("\0".join([os.path.basename(str(sample.image)), *told(sample)]).encode() + b"\n")
        return digest.hexdigest()

    def check_identity(self, state: dict[str, Any]) -> None:
        """state: of a checkpoint.  Raises UserError where it was trained on other data."""
        if state.get("identity", own := self.identity()) != own:
            raise UserError(
                f"cannot resume within the data: {self.name} below {self.root} holds other files, captions or answers than "
                "the run was trained on; correct data.root, or start anew"
            )

    def train_captions(self) -> Iterator[str]:
        """All that a tokenizer can learn from: captions, questions, and each question's different answers."""
        for sample in self.split("train"):
            yield from texts_of(sample)

    # -- Lightning -------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        self.read(stage)
        # every rank trains its own, equal one: it depends on the texts alone
        if stage in (None, "fit") and self.tokenizer is not None and not getattr(self.tokenizer, "trained", True):
            self.tokenizer.train(self.train_captions())

    def read(self, stage: str | None = None) -> None:
        """`setup` without the tokenizer's training, which a mixture does once for all its sources."""
        needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage or "", SPLITS)
        for split in needed:
            self.split(split)
        if "train" not in needed:
            return
        self._train = self._examples("train")
        self.sampler = TrainSampler(
            length=len(self._train),
            batch_size=self.batch_size,
            seed=self.seed,
            owner=self._train.owner,
            order=self.training_order(),
        )

    @property
    def steps_per_epoch(self) -> int:
        """Known after `setup`."""
        if self.sampler is None:
            raise RuntimeError('call setup("fit") first: the number of steps depends on the data')
        return self.sampler.steps_per_epoch

    @property
    def bad_samples(self) -> int:
        return self._train.bad_samples

    def _examples(self, split: str) -> Examples:
        training = split == "train"
        return Examples(
            self.split(split),
            name=f"{self.name} {split}",
            transform=self.transform["train" if training else "eval"],
            training=training,
            seed=self.seed,
            captions=self.captions,
            max_bad_fraction=self.max_bad_fraction,
            expect=self.reading_ahead() if training else None,
        )

    def _loader(self, examples: Examples, sampler: TrainSampler | EvalSampler) -> Loader:
        examples.issues_path = self.issues_path
        collate = Collate(
            tokenizer=self.tokenizer,
            given=given_fields(examples.samples),
            classes=len(self.class_names or ()),
            training=examples.training,
            one_caption=examples.training and self.captions in (1, "all"),
            answers=None if self.answer_names is None else {name: i for i, name in enumerate(self.answer_names)},
        )
        return Loader(
            examples,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            worker_init_fn=prepare_worker,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            timeout=self.timeout if self.num_workers else 0,
            generator=torch.Generator().manual_seed(0),  # else each new iterator draws from, and shifts, the global one
        )

    def train_dataloader(self) -> Loader:
        assert self.sampler is not None, "Lightning calls setup before it asks for loaders"
        self._train_loader = self._loader(self._train, self.sampler)
        return self._train_loader

    def _eval_loader(self, split: str) -> Loader | list[Loader]:
        if not len(self.split(split)):
            return []
        return self._loader(
            self._examples(split), EvalSampler(length=len(self.split(split)), batch_size=self.eval_batch_size)
        )

    def val_dataloader(self) -> Loader | list[Loader]:
        return self._eval_loader("val")

    def test_dataloader(self) -> Loader | list[Loader]:
        return self._eval_loader("test")

    def state_dict(self) -> dict[str, Any]:
        """The position in the training data, in samples of all processes: what was trained on, not what was loaded."""
        if self.sampler is None:
            return {}
        epoch, first = self.sampler.begun
        used = self._train_loader.delivered - unused_batches(self.trainer) if self._train_loader is not None else 0
        position = self.sampler.state_dict(epoch=epoch, consumed=first + used * self.batch_size)
        return {**position, "identity": self.identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.sampler is not None:
            self.check_identity(state_dict)
            self.sampler.load_state_dict(state_dict)
            self._train_loader = None


def told(sample: Sample) -> list[str]:
    """All that goes with its image."""
    asked = () if sample.question is None else (sample.question, *sample.answers)
    parts = () if sample.crop is None else (str(sample.crop),)
    return [str(sample.label), *sample.captions, *asked, *parts]


def texts_of(sample: Sample) -> Iterator[str]:
    yield from sample.captions
    if sample.question is not None:
        yield sample.question
        yield from dict.fromkeys(sample.answers)
