"""Samples in one array of bytes: data workers share its memory, where a list of objects would be copied page by page, as
Python counts references in each of them."""

from __future__ import annotations

import dataclasses
import gc
import marshal
import operator
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vlp.data.images import ImageError
from vlp.structures import Sample

_NAMES = [field.name for field in dataclasses.fields(Sample) if field.name != "image"]
_DEFAULTS = [field.default for field in dataclasses.fields(Sample) if field.name != "image"]
_values = operator.attrgetter(*_NAMES)
_PLAIN, _PICKLED = b"\0", b"\1"
BLOCK = 1 << 24  # bytes that are collected before they are joined


class PackedSamples(Sequence[Sample]):
    """A sample of two captions takes some 150 bytes, and is made anew at each access, in about 10 µs."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        ends, blocks, block = [0], [], bytearray()
        done, fields = 0, set[str]()
        for sample in samples:
            told = _told(sample)
            fields |= told.keys()
            block += _packed(told)
            ends.append(done + len(block))
            if len(block) > BLOCK:
                blocks.append(bytes(block))
                done += len(block)
                block = bytearray()
        self._bytes = np.frombuffer(b"".join([*blocks, block]), dtype=np.uint8)
        self._ends = np.array(ends)
        self.fields = frozenset(fields)  # that any of the samples has

    @property
    def size(self) -> int:
        """Bytes."""
        return self._bytes.nbytes + self._ends.nbytes

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):  # iteration ends by it
            raise IndexError(index)
        return _unpacked(self._bytes[self._ends[index] : self._ends[index + 1]].data)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def _told(sample: Sample) -> dict[str, Any]:
    """What differs from the fields' defaults."""
    told: dict[str, Any] = {
        name: value
        for name, value, default in zip(_NAMES, _values(sample), _DEFAULTS, strict=True)
        if value is not default and value != default
    }
    image = sample.image
    told["image"] = str(image) if isinstance(image, Path) else image
    return told


def given_fields(samples: Sequence[Sample]) -> frozenset[str]:
    """The fields that a data set's samples have: those of any where they are packed, else of the first that can be read."""
    if isinstance(samples, PackedSamples):
        return samples.fields
    for index in range(len(samples)):
        try:
            return frozenset(_told(samples[index]))
        except ImageError:  # it is reported when its turn comes
            continue
    return frozenset()


def _packed(told: dict[str, Any]) -> bytes:
    """marshal writes plain values in a fifth of pickle's time."""
    try:
        return _PLAIN + marshal.dumps(told)
    except ValueError:  # records within the sample
        return _PICKLED + pickle.dumps(told, protocol=pickle.HIGHEST_PROTOCOL)


def _unpacked(data: memoryview) -> Sample:
    told = marshal.loads(data[1:]) if data[:1] == _PLAIN else pickle.loads(data[1:])
    if isinstance(told["image"], str):
        told["image"] = Path(told["image"])
    return Sample(**told)


@contextmanager
def without_collection() -> Iterator[None]:
    """Millions of objects that live on make Python look through all of them again and again for cycles that they lack."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
