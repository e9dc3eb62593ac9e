"""The samples of a split in shards, by number; nothing but the numbers is in memory until one is asked for."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlp.data.images import ImageError
from vlp.data.photo_ids import OTHER, hashed
from vlp.data.tar.index import PARTS, ShardIndex, read_index
from vlp.data.tar.manifest import Shard
from vlp.data.tar.order import BlockOrder
from vlp.data.tar.store import ShardStore
from vlp.structures import Member, Sample

OPEN = 64  # shards that a process keeps open


@dataclass
class OpenShard:
    path: Path
    descriptor: int
    index: ShardIndex


class ShardSamples(Sequence[Sample]):
    """counts: how many samples of each shard are used."""

    def __init__(self, store: ShardStore, shards: Sequence[Shard], counts: Sequence[int]) -> None:
        self.store, self.shards, self.counts = store, list(shards), list(counts)
        self._ends = np.cumsum([0, *counts])
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._process = os.getpid()
        self._fetcher: ThreadPoolExecutor | None = None
        self._asked: set[tuple[int, int]] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_fetcher": None, "_asked": set()}

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
            raise ImageError(
                f"{self.shards[shard].name}: has {len(opened.index)} samples where {place + 1} were counted"
            )
        return self._sample(opened, place, number)

    def opened(self, number: int) -> OpenShard:
        if self._process != os.getpid():  # a fork shares the descriptors, and would close those of its parent
            self._open, self._fetcher, self._process = OrderedDict(), None, os.getpid()
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = self.shards[number]
        path = self.store.local(shard)
        opened = OpenShard(path, os.open(path, os.O_RDONLY), kept_index(path, self.store.index_file(shard)))
        self._open[number] = opened
        while len(self._open) > OPEN:
            os.close(self._open.popitem(last=False)[1].descriptor)
        return opened

    def expect(self, order: BlockOrder, number: int) -> None:
        """Fetches, behind the scenes, the shards that follow that of this sample in an epoch."""
        shard, _ = self.place(number)
        if (order.epoch, shard) in self._asked:
            return
        self._asked.add((order.epoch, shard))
        if self._fetcher is None or self._process != os.getpid():
            self._fetcher = ThreadPoolExecutor(1)
        for following in order.next_shards(shard):
            self._fetcher.submit(self.store.local, self.shards[following])  # an error comes again when it is needed

    def _sample(self, opened: OpenShard, place: int, number: int) -> Sample:
        parts = dict(zip(PARTS, map(tuple, opened.index.files[place].tolist()), strict=True))
        offset, size = parts["image"]
        image = Member(archive=opened.path, name=opened.index.images[place], offset=offset, size=size)
        told: dict[str, Any] = {}
        if parts["json"][1] >= 0:
            try:
                told = json.loads(self._read(opened, parts["json"]))
            except (ValueError, RecursionError) as error:
                raise ImageError(f"{image}: its json is not valid") from error
            if not isinstance(told, dict):
                raise ImageError(f"{image}: its json is no object")
        if "captions" not in told and parts["txt"][1] >= 0:
            told["captions"] = [self._read(opened, parts["txt"])]
        if "label" not in told and parts["cls"][1] >= 0:
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


def sample_of(told: dict[str, Any], *, image: Member, number: int) -> Sample:
    """From the record of `vlp data pack` (a Sample's own fields), or img2dataset's with its one caption.

    Where no id is told, it is made of the photo's address or of its place in the shard.
    """
    captions = told.get("captions", told.get("caption")) or []
    captions = [captions] if isinstance(captions, str) else captions
    question, answers, label = told.get("question"), told.get("answers") or [], told.get("label")
    if not _texts(captions) or not _texts(answers) or not isinstance(question, str | None):
        raise ImageError(f"{image}: captions, question and answers must be texts")
    cleaned = tuple(words for text in captions if (words := " ".join(text.split())))
    if not cleaned and question is None and label is None:
        raise ImageError(f"{image}: neither a caption nor a question nor a class goes with it")
    if not str(label if label is not None else 0).strip().isdecimal():
        raise ImageError(f"{image}: the class {label!r} is no number")
    own = told.get("id")
    address = str(told.get("url") or told.get("sha256") or f"{image.archive.name}/{image.name}")
    return Sample(
        id=own if isinstance(own, int) else OTHER + hashed(address),
        sample=told["sample"] if isinstance(told.get("sample"), int) else number,
        image=image,
        captions=cleaned,
        question=question,
        answers=tuple(answers),
        answer_weight=float(told.get("answer_weight", 1.0)),
        question_type=told.get("question_type"),
        answer_type=told.get("answer_type"),
        label=None if label is None else int(label),
        choices=tuple(told.get("choices") or ()),
        categories=tuple(told.get("categories") or ()),
        boxes=None if told.get("boxes") is None else tuple(tuple(box) for box in told["boxes"]),
        box_labels=tuple(told.get("box_labels") or ()),
    )


def _texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def kept_index(path: Path, file: Path) -> ShardIndex:
    """The index of a shard, read from `file` if that was made of the very same shard, else made and kept there."""
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    try:
        with np.load(file, allow_pickle=False) as kept:
            if kept["stamp"].tolist() == stamp:
                return ShardIndex(
                    files=kept["files"], images=str(kept["images"]).split("\0") if len(kept["files"]) else []
                )
    except (OSError, ValueError, KeyError, EOFError):
        pass  # none yet, or one that was cut off: it is made again
    index = read_index(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part.npz")
    np.savez(part, stamp=np.array(stamp), files=index.files, images=np.array("\0".join(index.images)))
    os.replace(part, file)
    return index
