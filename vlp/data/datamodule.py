"""The base of all data sets; a data set defines only `samples(split)`.

    class MyData(DataModule):
        def samples(self, split: str) -> list[Sample]: ...       # split: "train", "val" or "test"

Order, resumption and randomness: vlp/data/sampler.py. Images that cannot be read: vlp/data/example_dataset.py.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from vlp.data.annotation_files import FolderListings, path_below_root, require_path, strip_root
from vlp.data.collate import Collate, TeacherLookup, tokenizer_texts, train_tokenizer
from vlp.data.disjoint_splits import ImagesOfSplits
from vlp.data.example_dataset import ExampleDataset, ImageTransform
from vlp.data.fingerprint import relative_image_name, samples_sha256
from vlp.data.issues import Faults, join_first_five
from vlp.data.loader import Loader, discarded_batches, prepare_worker
from vlp.data.packed_samples import PackedSamples, available_fields, garbage_collection_disabled
from vlp.data.sampler import EpochOrder, EvalSampler, TrainSampler
from vlp.random import SUBSET_KEY, permutation
from vlp.structures import Sample
from vlp.system.errors import UserError
from vlp.system.renamed import RenamedMethod

SPLITS = ("train", "val", "test")


class DataModule(L.LightningDataModule):
    """name: the source in the names of logged figures.  root: the folder of the data.  transform: callables "train" and
    "eval" from a PIL image to uint8 [3 h w].  batch_size: training samples a step of all processes together;
    eval_batch_size: of each process.  captions: how many captions of an image are chosen at random in each epoch ("one", or
    a number), or "all": each caption is a sample of its own, and no batch contains an image twice.
    max_train_samples: a fixed random subset.  train_draw: of which draw of the label_efficiency task with seed 0; None = another.
    timeout: seconds to wait for a worker, 0 = for ever.
    issues_path: see vlp/data/example_dataset.py.
    """

    # set by `setup` if the data have classes (category_ids: their official numbers) or an answer vocabulary
    class_names: tuple[str, ...] | None = None
    category_ids: tuple[int, ...] | None = None
    answer_names: tuple[str, ...] | None = None
    # of data with a class for each pixel: the classes; their official ids (None = those of the label map's own values); and
    # whether each is of things, which are counted, or of stuff
    segment_names: tuple[str, ...] | None = None
    segment_ids: tuple[int, ...] | None = None
    segment_things: tuple[bool, ...] | None = None
    regions = False  # whether texts say of each token which boxes it mentions

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
        train_draw: int | None = None,
        max_bad_fraction: int | float = 0.01,
        follow_symlinks: bool = False,
        timeout: int | float = 0,
    ) -> None:
        super().__init__()
        if captions not in ("one", "all") and not (isinstance(captions, int) and captions > 0):
            raise UserError(f'data.captions={captions!r}: choose "one", "all" or a number of captions')
        if max_train_samples is not None and max_train_samples < 1:
            raise UserError(f"data.max_train_samples={max_train_samples}: give a number of samples, 1 or more, or null")
        if train_draw is not None and (isinstance(train_draw, bool) or train_draw < 0):
            raise UserError(f"data.train_draw={train_draw}: give the number of a draw, 0 or more, or null")
        if train_draw is not None and max_train_samples is None:
            raise UserError(
                f"data.train_draw={train_draw} draws no part of all samples: set data.max_train_samples too"
            )
        self.name, self.root = name, Path(root).expanduser()
        self.transform = {kind: transform[kind] for kind in ("train", "eval")}
        self.tokenizer, self.seed = tokenizer, seed
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.captions: str | int = 1 if captions == "one" else captions
        self.max_train_samples, self.max_bad_fraction = max_train_samples, max_bad_fraction
        self.train_draw = train_draw
        self.follow_symlinks, self.timeout = follow_symlinks, timeout
        self.faults = Faults()  # `vlp data check` sets one that collects
        self._listings = FolderListings()
        self._images_of_splits = ImagesOfSplits()
        self.issues_path: Path | None = None
        # by the teacher's name, for the training batches; filled before the first of them (vlp/training/callbacks/teachers.py)
        self.teacher_embeddings: dict[str, TeacherLookup] = {}
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer evaluation samples than ranks
        self.sampler: TrainSampler | None = None
        self._train_loader: Loader | None = None
        self._splits: dict[str, Sequence[Sample]] = {}

    # -- for a data set to define ----------------------------------------------------------------------------------

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "reading_ahead" in cls.__dict__:  # it would never be called
            raise TypeError(f"{cls.__name__}.reading_ahead was renamed: name the method prefetcher")

    def samples(self, split: str) -> Sequence[Sample]:
        """The raw samples of "train", "val" or "test"; empty if the data set does not have the split."""
        raise NotImplementedError

    def ground_truth(self, split: str) -> Path:
        """The file of instances in COCO's form, with all areas, crowds and ids, that a detection of this split is evaluated
        by. It may hold more images than the split (val that was held out from train): evaluate those of the split alone.
        Raises UserError where the data have none."""
        raise UserError(
            f"{self.name} has no file of instances to evaluate boxes of {split} by: use data with boxes, such as data=coco"
        )

    def training_order(self) -> Callable[[int], EpochOrder] | None:
        """From an epoch's number to its order, for data that are slow to read in arbitrary order."""
        return None

    def prefetcher(self) -> Callable[[int, int], None] | None:
        """Called with (epoch, sample) before the training sample is read."""
        return None

    # -- for a data set to use -------------------------------------------------------------------------------------

    measured = RenamedMethod("sources_with_split")

    def resolve_path(self, folder: Path, relative: object, *, location: str) -> Path:
        """A path of an annotation file: below `folder`, or an absolute one inside the root.  Raises DataError for others."""
        if isinstance(relative, str) and relative.startswith("/"):
            for base in (folder, self.root):
                if (inside := strip_root(base, relative)) is not None:
                    folder, relative = base, inside
                    break
        return path_below_root(
            folder, relative, location=location, follow_symlinks=self.follow_symlinks, folders=self._listings
        )

    def inside(self, folder: Path, relative: object, *, place: str) -> Path:
        """The old name of `resolve_path`, whose `location` was `place`."""
        warnings.warn("DataModule.inside was renamed: write resolve_path(…, location=…)", FutureWarning, stacklevel=2)
        return self.resolve_path(folder, relative, location=place)

    @property
    def sources(self) -> dict[str, DataModule]:
        """Itself by its name, as in a mixture."""
        assert self.name is not None  # Lightning declares it as optional
        return {self.name: self}

    def sources_with_split(self, split: str) -> dict[str, DataModule]:
        """The sources that have samples in a split, in the order of its loaders."""
        return self.sources if len(self.split(split)) else {}

    def split(self, split: str) -> Sequence[Sample]:
        """The checked samples of a split, read once."""
        if split not in SPLITS:
            raise UserError(f"there is no split {split!r}: choose from {', '.join(SPLITS)}")
        if split not in self._splits:
            self._splits[split] = self.load(split)
        return self._splits[split]

    def load(self, split: str) -> Sequence[Sample]:
        """The result of `samples`, checked and packed."""
        require_path(
            self.root, description=f"the folder of {self.name}", fix="set data.root, or data_root for all data sets"
        )
        with garbage_collection_disabled():
            samples = self.samples(split)
            if split == "train" and self.max_train_samples is not None:
                subset = self.training_permutation(len(samples))[: self.max_train_samples].sort().values
                samples = [samples[index] for index in subset.tolist()]
            self._check_samples(split, samples)  # before packing: each access to a packed sample builds it again
            return PackedSamples(samples)

    def training_permutation(self, length: int) -> torch.Tensor:
        """Of all training samples, or of what they come in: `max_train_samples` takes its beginning."""
        return permutation(length, 0, *(() if self.train_draw is None else (SUBSET_KEY, self.train_draw)))

    def _check_samples(self, split: str, samples: Sequence[Sample]) -> None:
        empty = [sample.image.name for sample in samples if not sample.annotated]
        pictured = (sample.image for sample in samples if sample.has_image)
        if empty and split != "train":
            raise UserError(
                f"{len(empty)} {split} images of {self.name} have no caption, no question and no class: {join_first_five(empty)}"
            )
        # several questions may be about one; a Member's file has been read already
        images = dict.fromkeys(str(image) for image in pictured if isinstance(image, Path))
        self._images_of_splits.add(split, images, name=self.name, faults=self.faults)
        missing = [image for image in images if not self._listings.is_file(image)]
        if not missing:
            return
        message = (
            f"{len(missing)} of {len(images)} {split} images of {self.name} are not on disk: {join_first_five(missing)}"
        )
        if split != "train" or len(missing) > self.max_bad_fraction * len(images):
            raise FileNotFoundError(f"{message}; complete the data, or correct data.root")
        warnings.warn(f"{message}; they are replaced by other training images", stacklevel=3)

    def fingerprint(self, split: str, positions: Sequence[int] | None = None) -> str:
        """sha256 of the file names, captions, questions and answers of a split, in order: equal data have equal ones on any
        machine.  positions: of the samples that count; None = all."""
        samples = self.split(split)
        chosen = samples if positions is None else (samples[position] for position in positions)
        return samples_sha256((relative_image_name(sample, self.root), sample) for sample in chosen)

    def identity(self) -> str:
        """sha256 of file names without folders, captions and answers of about 256 evenly spaced training samples."""
        train = self.split("train")
        samples = (train[index] for index in range(0, len(train), max(1, len(train) // 256)))
        return samples_sha256((os.path.basename(str(sample.image)), sample) for sample in samples)

    def check_identity(self, state: dict[str, Any]) -> None:
        """state: of a checkpoint.  Raises UserError if it was trained on other data."""
        if state.get("identity", identity := self.identity()) != identity:
            raise UserError(
                f"cannot resume within the data: {self.name} below {self.root} holds other files, captions or answers than "
                "the run was trained on; correct data.root, or start a new run"
            )

    def train_captions(self) -> Iterator[str]:
        """The texts that a tokenizer is trained on: captions, questions, and each question's different answers."""
        for sample in self.split("train"):
            yield from tokenizer_texts(sample)

    # -- Lightning -------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        self.read_splits(stage)
        train_tokenizer(self.tokenizer, self.train_captions(), stage)

    def read_splits(self, stage: str | None = None) -> None:
        """`setup` without training the tokenizer, which a mixture does once for all its sources."""
        needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage or "", SPLITS)
        for split in needed:
            self.split(split)
        if "train" not in needed:
            return
        self._train = self._make_dataset("train")
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

    def _make_dataset(self, split: str) -> ExampleDataset:
        training = split == "train"
        return ExampleDataset(
            self.split(split),
            name=f"{self.name} {split}",
            transform=self.transform["train" if training else "eval"],
            training=training,
            seed=self.seed,
            captions=self.captions,
            max_bad_fraction=self.max_bad_fraction,
            prefetch=self.prefetcher() if training else None,
        )

    def _make_loader(self, examples: ExampleDataset, sampler: TrainSampler | EvalSampler) -> Loader:
        examples.issues_path = self.issues_path
        collate = Collate(
            tokenizer=self.tokenizer,
            available_fields=available_fields(examples.samples),
            classes=len(self.class_names or ()),
            training=examples.training,
            one_caption=examples.training and self.captions in (1, "all"),
            answers=None if self.answer_names is None else {name: i for i, name in enumerate(self.answer_names)},
            regions=self.regions,
            teachers=self.teacher_embeddings if examples.training else {},
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
            generator=torch.Generator().manual_seed(0),  # else each iterator would advance the global one
        )

    def train_dataloader(self) -> Loader:
        assert self.sampler is not None, "Lightning calls setup before it asks for loaders"
        self._train_loader = self._make_loader(self._train, self.sampler)
        return self._train_loader

    def _make_eval_loader(self, split: str) -> Loader | list[Loader]:
        if not (length := len(self.split(split))):
            return []
        sampler = EvalSampler(length=length, batch_size=self.eval_batch_size)
        return self._make_loader(self._make_dataset(split), sampler)

    def val_dataloader(self) -> Loader | list[Loader]:
        return self._make_eval_loader("val")

    def test_dataloader(self) -> Loader | list[Loader]:
        return self._make_eval_loader("test")

    def state_dict(self) -> dict[str, Any]:
        """The position in the training data, in samples of all processes: those trained on, not those loaded."""
        if self.sampler is None:
            return {}
        epoch, first = self.sampler.iteration_start
        used = self._train_loader.delivered - discarded_batches(self.trainer) if self._train_loader is not None else 0
        position = self.sampler.state_dict(epoch=epoch, consumed=first + used * self.batch_size)
        return {**position, "identity": self.identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.sampler is not None:
            self.check_identity(state_dict)
            self.sampler.load_state_dict(state_dict)
            self._train_loader = None
