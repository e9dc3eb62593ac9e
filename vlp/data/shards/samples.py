"""The samples of a split in shards, by number; nothing but the numbers is in memory until one is asked for."""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vlp.data.images import ImageError
from vlp.data.shards.index import PARTS, ShardIndex, cached_index
from vlp.data.shards.manifest import Shard
from vlp.data.shards.record import sample_of
from vlp.data.shards.store import ShardStore, touched
from vlp.structures import Member, Sample

OPEN = 64  # shards that a process keeps open
USED = 1.0  # seconds after which a shard that is still read counts as used again


@dataclass
class OpenShard:
    path: Path
    descriptor: int
    index: ShardIndex
    used: float  # when it was last told to be in use


class ShardSamples(Sequence[Sample]):
    """counts: how many samples of each shard are used."""

    def __init__(self, store: ShardStore, shards: Sequence[Shard], counts: Sequence[int]) -> None:
        self.store, self.shards, self.counts = store, list(shards), list(counts)
        self._ends = np.cumsum([0, *counts])
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def place(self, number: int) -> tuple[int, int]:
        """The shard of a sample and its place there."""
        shard = int(np.searchsorted(self._ends, number, side="right")) - 1
        return shard, number - int(self._ends[shard])

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]
        """Raises ImageError where the shard does not hold what was counted, or not as it should be."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        shard, place = self.place(number)
        opened = self.opened(shard)
        if place >= len(opened.index):
            name = self.shards[shard].name
            raise ImageError(f"{name}: has {len(opened.index)} samples where {place + 1} were counted")
        return self._sample(shard, opened, place, number)

    def opened(self, number: int) -> OpenShard:
        if self._process != os.getpid():  # a fork shares the descriptors, and would close those of its parent
            self._open, self._process = OrderedDict(), os.getpid()
        opened = self._open.get(number)
        if opened is None:
            opened = self._open[number] = self._newly_opened(self.shards[number])
            while len(self._open) > OPEN:
                os.close(self._open.popitem(last=False)[1].descriptor)
            return opened
        self._open.move_to_end(number)
        if self.store.remote and time.monotonic() > opened.used + USED:
            touched(opened.path)
            opened.used = time.monotonic()
        return opened

    def _newly_opened(self, shard: Shard) -> OpenShard:
        for _ in range(3):
            path = self.store.local(shard)
            try:
                index = cached_index(path, self.store.index_file(shard), self.store.stamp(path))
                return OpenShard(path, os.open(path, os.O_RDONLY), index, time.monotonic())
            except FileNotFoundError:  # another process has made room for a shard of its own meanwhile
                continue
        raise ImageError(f"{self.store.where(shard.name)}: removed as often as fetched; raise data.cache_bytes")

    def _sample(self, shard: int, opened: OpenShard, place: int, number: int) -> Sample:
        parts = dict(zip(PARTS, map(tuple, opened.index.files[place].tolist()), strict=True))
        offset, size = parts["image"]
        fetch = partial(self.store.local, self.shards[shard]) if self.store.remote else None
        name = opened.index.images[place]
        image = Member(archive=opened.path, name=name, offset=offset, size=size, fetch=fetch)
        told: Any = {}
        if parts["json"][1] >= 0:
            try:
                told = json.loads(self._read(opened, parts["json"]))
            except (ValueError, RecursionError) as error:
                raise ImageError(f"{image}: its json is not valid") from error
        if isinstance(told, dict) and "captions" not in told and parts["txt"][1] >= 0:
            told["captions"] = [self._read(opened, parts["txt"])]
        if isinstance(told, dict) and "label" not in told and parts["cls"][1] >= 0:
            told["label"] = self._read(opened, parts["cls"])
        return sample_of(told, image=image, number=number)

    def _read(self, opened: OpenShard, part: tuple[int, int]) -> str:
        offset, size = part
        data = os.pread(opened.descriptor, size, offset)
        if len(data) < size:
            raise ImageError(f"{opened.path}: cut off within a sample")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ImageError(f"{opened.path}: text that is not UTF-8") from error
