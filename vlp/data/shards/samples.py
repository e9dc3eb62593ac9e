"""The samples of a split in shards; only their counts are in memory until a sample is read."""

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
from vlp.data.shards.index import PARTS, ShardIndex, load_or_make_index
from vlp.data.shards.manifest import Shard
from vlp.data.shards.record import sample_from_record
from vlp.data.shards.store import ShardStore, mark_used
from vlp.structures import Member, Sample

MAX_OPEN_SHARDS = 64  # of each process
USE_INTERVAL_S = 1.0  # after which a shard in use is marked as used again


@dataclass
class OpenShard:
    path: Path
    descriptor: int
    index: ShardIndex
    last_marked: float  # monotonic time at which it was last marked as used


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

    def locate(self, number: int) -> tuple[int, int]:
        """The shard of a sample, and the sample's position in it."""
        shard = int(np.searchsorted(self._ends, number, side="right")) - 1
        return shard, number - int(self._ends[shard])

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]
        """Raises ImageError if the shard has fewer samples than counted, or a damaged one."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        shard, position = self.locate(number)
        opened = self.open_shard(shard)
        if position >= len(opened.index):
            name = self.shards[shard].name
            raise ImageError(f"{name}: has {len(opened.index)} samples, expected at least {position + 1}")
        return self._build_sample(shard, opened, position, number)

    def open_shard(self, number: int) -> OpenShard:
        if self._process != os.getpid():  # a fork shares the descriptors, and would close those of its parent
            self._open, self._process = OrderedDict(), os.getpid()
        opened = self._open.get(number)
        if opened is None:
            opened = self._open[number] = self._open_local_shard(self.shards[number])
            while len(self._open) > MAX_OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1].descriptor)
            return opened
        self._open.move_to_end(number)
        if self.store.remote and time.monotonic() > opened.last_marked + USE_INTERVAL_S:
            mark_used(opened.path)
            opened.last_marked = time.monotonic()
        return opened

    def _open_local_shard(self, shard: Shard) -> OpenShard:
        for _ in range(3):
            path = self.store.local_path(shard)
            try:
                index = load_or_make_index(path, self.store.index_path(shard), self.store.stamp(path))
                return OpenShard(path, os.open(path, os.O_RDONLY), index, time.monotonic())
            except FileNotFoundError:  # another process has removed it meanwhile, to store another shard
                continue
        raise ImageError(
            f"{self.store.address(shard.name)}: removed from the cache as often as downloaded; raise data.cache_bytes"
        )

    def _build_sample(self, shard: int, opened: OpenShard, position: int, number: int) -> Sample:
        parts = dict(zip(PARTS, map(tuple, opened.index.files[position].tolist()), strict=True))
        offset, size = parts["image"]
        fetch = partial(self.store.local_path, self.shards[shard]) if self.store.remote else None
        name = opened.index.images[position]
        image = Member(archive=opened.path, name=name, offset=offset, size=size, fetch=fetch)
        record: Any = {}
        if parts["json"][1] >= 0:
            try:
                record = json.loads(self._read_text(opened, parts["json"]))
            except (ValueError, RecursionError) as error:
                raise ImageError(f"{image}: its json is not valid") from error
        if isinstance(record, dict) and record.get("captions") is None and parts["txt"][1] >= 0:
            record["captions"] = [self._read_text(opened, parts["txt"])]
        if isinstance(record, dict) and record.get("label") is None and parts["cls"][1] >= 0:
            record["label"] = self._read_text(opened, parts["cls"]).strip()
        return sample_from_record(record, image=image, number=number)

    def _read_text(self, opened: OpenShard, part: tuple[int, int]) -> str:
        offset, size = part
        data = os.pread(opened.descriptor, size, offset)
        if len(data) < size:
            raise ImageError(f"{opened.path}: cut off within a sample")
        try:
            return data.decode("utf-8-sig")  # a byte-order mark is no part of a caption
        except UnicodeDecodeError as error:
            raise ImageError(f"{opened.path}: text that is not UTF-8") from error
