"""Data in tar shards (webdataset's layout), in a folder or at any address that fsspec opens.

    root/manifest.json  root/train-00000.tar …      of `vlp data pack`
    root/00000.tar  root/00000_stats.json …         of img2dataset

A sample is a number here as everywhere, so order, exact resumption and equal steps of all processes are those of other
data; shards are read one block after the other (vlp/data/shards/order.py), and remote ones are fetched into a cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.data.collate import tokenizer_texts
from vlp.data.datamodule import SPLITS, DataModule
from vlp.data.disjoint_splits import report_shared
from vlp.data.images import ImageError
from vlp.data.issues import DataError, join_first_five
from vlp.data.shards.index import load_or_make_index
from vlp.data.shards.manifest import (
    MANIFEST_NAME,
    Shard,
    ShardManifest,
    check_shard_name,
    expand_shard_patterns,
    parse_shard_manifest,
)
from vlp.data.shards.order import EpochBlockOrders
from vlp.data.shards.prefetch import ShardPrefetcher
from vlp.data.shards.samples import ShardSamples
from vlp.data.shards.store import ShardStore
from vlp.datasets.common.splits import named_splits
from vlp.structures import Sample
from vlp.system.errors import UserError

CACHE = "~/.cache/vlp/shards"
REQUESTS = 16  # at the same time


class Shards(DataModule):
    """root: folder or URL.  splits: the shards of each split below it, a name, a pattern (`{000..012}`, `*`, `?`, `[0-9]`) or a
    list of them, null = none; without any, what the manifest says.  block: shards that training mixes with each other.

    cache: folder for remote shards and for indices; cache_bytes: of all fetched shards of this root.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        splits: Mapping[str, str | Sequence[str] | None] | None = None,
        block: int = 16,
        cache: str | Path | None = None,
        cache_bytes: int = 100 << 30,
        **loading: Any,
    ) -> None:
        super().__init__(root=root, **loading)
        if block < 1:
            raise UserError(f"data.block={block}: at least one shard must be read at a time")
        if self.captions == "all":
            raise UserError(
                "data.captions=all needs to know all captions beforehand, which shards do not; give a number"
            )
        self.splits, self.block = named_splits(splits, setting="data.splits"), block
        folder = Path(cache or os.environ.get("VLP_CACHE") or CACHE)
        self.store = ShardStore(str(root), cache=folder, cache_bytes=cache_bytes, follow_symlinks=self.follow_symlinks)
        self._manifest: ShardManifest | None = None
        self._shards: dict[str, list[Shard]] = {}  # by split
        self._known: dict[str, list[Shard]] = {}

    def manifest(self) -> ShardManifest:
        """That of the root; an empty one where there is none. Read once."""
        if self._manifest is None:
            text = self.store.read_text(MANIFEST_NAME)
            self._manifest = (
                ShardManifest(splits={})
                if text is None
                else parse_shard_manifest(text, location=self.store.address(MANIFEST_NAME))
            )
            self.class_names, self.answer_names = self._manifest.class_names, self._manifest.answer_names
        return self._manifest

    def _by_name(self) -> dict[str, Shard]:
        """All shards of the manifest."""
        return {shard.name: shard for shards in self.manifest().splits.values() for shard in shards}

    def shards(self, split: str) -> list[Shard]:
        """Those of a split with what the manifest knows of them; listed once, as each split is compared with the others.  Raises
        DataError for one that is not there."""
        if split not in self._shards:
            self._shards[split] = self._list_shards(split)
        return self._shards[split]

    def _list_shards(self, split: str) -> list[Shard]:
        listed = self._by_name()
        if not any(self.splits.values()):
            if not listed:
                problem = f"there is no {self.store.address(MANIFEST_NAME)} and data.splits is not given"
                raise DataError(
                    "no shard",
                    f"{problem}; if `vlp data pack` was interrupted run it again, for shards of another origin run `vlp data "
                    "index`, or name them, for example data.splits.train='{00000..00099}.tar'",
                )
            return list(self.manifest().splits.get(split, ()))
        found: list[Shard] = []
        for name in expand_shard_patterns(self.splits.get(split) or []):
            names = self.store.list_matching(name) if set(name) & set("*?[") else [name]
            if not names:
                raise DataError(
                    "no shard", f"no shard is called {self.store.address(name)}; correct data.splits.{split}"
                )
            for name in map(posixpath.normpath, names):
                check_shard_name(name, location=f"data.splits.{split}")
                found.append(listed.get(name, Shard(name=name)))
        twice = [name for name, count in Counter(shard.name for shard in found).items() if count > 1]
        if twice:
            raise DataError("file listed twice", f"shards of {split} given more than once: {join_first_five(twice)}")
        return found

    # -- instead of a list of samples --------------------------------------------------------------------------------

    def samples(self, split: str) -> ShardSamples:
        counted = self._counted(split)
        if split == "train" and self.max_train_samples is not None:
            counted = self._some(counted, self.max_train_samples)
        return ShardSamples(self.store, counted, [shard.samples or 0 for shard in counted])

    def load(self, split: str) -> Sequence[Sample]:
        return self.samples(split)  # what is wrong with one of them is found when it is read

    def _train_samples(self) -> ShardSamples:
        samples = self.split("train")
        assert isinstance(samples, ShardSamples)
        return samples

    def training_order(self) -> EpochBlockOrders:
        return EpochBlockOrders(self._train_samples().counts, block=self.block, seed=self.seed)

    def prefetcher(self) -> ShardPrefetcher | None:
        return ShardPrefetcher(self._train_samples(), self.training_order()) if self.store.remote else None

    def _counted(self, split: str) -> list[Shard]:
        """The shards with their numbers of samples, from the manifest, from img2dataset's statistics, or by counting."""
        if split not in self._known or self.faults.collect:
            self._known[split] = self._look_up(split)
        return self._known[split]

    def _look_up(self, split: str) -> list[Shard]:
        shards = self.shards(split)
        self._report_shared_shards(shards, split)
        shards = self._existing_shards(shards, split)
        expected = self._all(self._expected, shards)
        listed = self._by_name()
        counted, lost = [], Counter[str]()
        for shard, samples in zip(shards, expected, strict=True):
            problem = listed[shard.name].bytes if shard.name in listed else None
            shorter = (
                problem is not None and shard.bytes is not None and shard.bytes < problem and not self.store.remote
            )
            if problem not in (None, shard.bytes) and not shorter:
                raise DataError(
                    "shard changed",
                    f"{self.store.address(shard.name)}: {shard.bytes} bytes, the manifest says {problem}; put the right "
                    "file there, or write its manifest again with `vlp data index`",
                )
            if samples is None or shorter:
                found = self._count(shard, split)
                lost[shard.name] = max(0, (samples or 0) - found)
                samples = found if samples is None else min(found, samples)
            counted.append(replace(shard, samples=samples))
        self._report_lost_shards(+lost, sum(number or 0 for number in expected), split)
        self._report_left_out(counted, split)
        return counted

    def _report_shared_shards(self, shards: list[Shard], split: str) -> None:
        for other in (name for name in SPLITS if name != split):
            names: set[str] = set()
            with suppress(DataError):  # of a split that is not read now
                names = {shard.name for shard in self.shards(other)}
            shared = [self.store.address(shard.name) for shard in shards if shard.name in names]
            report_shared("shard", shared, (other, split), name=self.name, faults=self.faults)

    def _report_left_out(self, shards: list[Shard], split: str) -> None:
        """Members that became no sample, as far as the manifest knows of them, and shards without any sample."""
        incomplete = [f"{shard.left_out} of {shard.name}" for shard in shards if shard.left_out]
        count = sum(shard.left_out for shard in shards)
        empty = [self.store.address(shard.name) for shard in shards if not shard.samples]
        for kind, number, problem, examples in (
            (
                "samples left out",
                count,
                f"{count} members of {split} shards are no samples",
                incomplete,
            ),
            ("shard without samples", len(empty), f"{len(empty)} {split} shards have no sample", empty),
        ):
            message = f"{self.name}: {problem}: {join_first_five(examples)}"
            if number and split == "train":
                self.faults.warn(kind, message, count=number)
            elif number:
                self.faults.error(kind, f"{message}; that would change the metric: pack the data again", count=number)

    def _existing_shards(self, shards: list[Shard], split: str) -> list[Shard]:
        """Those that are there, with their sizes as they are."""
        sizes = self._all(lambda shard: self.store.file_size(shard.name), shards)
        missing = [shard.name for shard, size in zip(shards, sizes, strict=True) if size is None]
        empty = [shard.name for shard, size in zip(shards, sizes, strict=True) if size == 0]
        for kind, problem, names in (
            ("missing shard", "are not there", missing),
            ("empty shard", "have 0 bytes", empty),
        ):
            if names:
                where = join_first_five(map(self.store.address, names))
                message = f"{len(names)} of {len(shards)} {split} shards of {self.name} {problem}: {where}"
                self.faults.error(kind, f"{message}; complete the data, or correct data.root", count=len(names))
        return [replace(shard, bytes=size) for shard, size in zip(shards, sizes, strict=True) if size]

    def _all(self, ask: Callable[[Any], Any], shards: Sequence[Shard]) -> list[Any]:
        """The answers for all of many shards; each may be a request to a server."""
        with ThreadPoolExecutor(REQUESTS if self.store.remote else 1) as pool:
            return list(pool.map(ask, shards))

    def _expected(self, shard: Shard) -> int | None:
        if shard.samples is not None:
            return shard.samples
        name = f"{shard.name.removesuffix('.tar')}_stats.json"
        statistics = self.store.read_text(name)
        if statistics is not None:
            try:
                return int(json.loads(statistics)["successes"])
            except (ValueError, KeyError, TypeError) as error:
                place = self.store.address(name)
                raise DataError(
                    "no statistics", f"{place}: expected img2dataset's file with successes in it"
                ) from error
        if self.store.remote:
            problem = f"how many samples {self.store.address(shard.name)} has is written nowhere"
            raise DataError(
                "no manifest", f"{problem}; `vlp data index` reads the shards once and writes manifest.json"
            )
        return None

    def _count(self, shard: Shard, split: str) -> int:
        path = self.store.local_path(shard)
        index = load_or_make_index(path, self.store.index_path(shard), self.store.stamp(path))
        for kind, count in index.faults.items():
            problem = f"{count} × {kind}: {join_first_five(index.examples[kind])}"
            if split == "train":
                self.faults.warn(kind, problem, count=count)
            else:
                message = f"{problem}; leaving them out of {split} would change the metric: pack the data again"
                self.faults.error(kind, message, count=count)
        return len(index)

    def _report_lost_shards(self, lost: Counter[str], of_all: int, split: str) -> None:
        """Shards that are shorter than the manifest says: named, and too much for a run above the accepted share."""
        if not lost:
            return
        count = lost.total()
        problem = (
            f"{count} of {of_all} {split} samples of {self.name} are lost, as shards are cut off: "
            f"{join_first_five(map(self.store.address, lost))}"
        )
        if split != "train" or count > self.max_bad_fraction * of_all:
            self.faults.error("samples lost", f"{problem}; put the right files there", count=count)
        else:
            self.faults.warn("samples lost", problem, count=count)

    def _some(self, shards: list[Shard], count: int) -> list[Shard]:
        """Shards drawn once and for all until they have so many samples, the last of them not used whole."""
        chosen: list[Shard] = []
        left = count
        for number in self.training_permutation(len(shards)).tolist():
            used = min(left, shards[number].samples or 0)
            if used > 0:
                chosen.append(replace(shards[number], samples=used))
                left -= used
        return chosen

    def fingerprint(self, split: str, positions: Sequence[int] | None = None) -> str:
        """sha256 over names, sizes and checksums of the shards, as the manifest has them; with `positions` over the samples."""
        if positions is not None:
            return super().fingerprint(split, positions)
        digest = hashlib.sha256()
        for shard in self._counted(split):
            digest.update(f"{shard.name}\0{shard.samples}\0{shard.sha256 or shard.bytes}\n".encode())
        return digest.hexdigest()

    def identity(self) -> str:
        return self.fingerprint("train")

    def train_captions(self) -> Iterator[str]:
        samples = self.split("train")
        for number in range(len(samples)):
            with suppress(ImageError):  # which training replaces and counts
                yield from tokenizer_texts(samples[number])
