"""Samples in one array of bytes, whose memory data workers share. Of a list of objects each worker would get its own copy,
since Python writes reference counts into the objects' memory pages."""

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
from vlp.structures import NO_IMAGE, Sample

_NAMES = [field.name for field in dataclasses.fields(Sample) if field.name != "image"]
_DEFAULTS = [field.default for field in dataclasses.fields(Sample) if field.name != "image"]
_get_values = operator.attrgetter(*_NAMES)
_PLAIN, _PICKLED = b"\0", b"\1"
BLOCK_BYTES = 1 << 24  # of serialized samples that are collected before they are joined


class PackedSamples(Sequence[Sample]):
    """A sample of two captions needs about 150 bytes; each access builds it again, in about 10 µs.

    available_fields: the fields that at least one of the samples has; "no_image" where one has no image.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        ends, blocks, block = [0], [], bytearray()
        joined_bytes, fields = 0, set[str]()
        for sample in samples:
            values = _non_default_fields(sample)
            fields |= _field_names(values)
            block += _serialize(values)
            ends.append(joined_bytes + len(block))
            if len(block) > BLOCK_BYTES:
                blocks.append(bytes(block))
                joined_bytes += len(block)
                block = bytearray()
        self._bytes = np.frombuffer(b"".join([*blocks, block]), dtype=np.uint8)
        self._ends = np.array(ends)
        self.available_fields = frozenset(fields)

    @property
    def nbytes(self) -> int:
        return self._bytes.nbytes + self._ends.nbytes

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):  # also ends an iteration
            raise IndexError(index)
        return _deserialize(self._bytes[self._ends[index] : self._ends[index + 1]].data)


def _non_default_fields(sample: Sample) -> dict[str, Any]:
    """The sample's fields that differ from their defaults, and its image."""
    values: dict[str, Any] = {
        name: value
        for name, value, default in zip(_NAMES, _get_values(sample), _DEFAULTS, strict=True)
        if value is not default and value != default
    }
    image = sample.image
    values["image"] = str(image) if isinstance(image, Path) else image
    return values


def _field_names(values: dict[str, Any]) -> set[str]:
    """values: of `_non_default_fields`."""
    return {*values, *(("no_image",) if values["image"] == str(NO_IMAGE) else ())}


def available_fields(samples: Sequence[Sample]) -> frozenset[str]:
    """The fields that a data set's samples have: of any sample if they are packed, else of the first that can be read."""
    if isinstance(samples, PackedSamples):
        return samples.available_fields
    for index in range(len(samples)):
        try:
            return frozenset(_field_names(_non_default_fields(samples[index])))
        except ImageError:  # it is reported when the sample is loaded
            continue
    return frozenset()


def _serialize(values: dict[str, Any]) -> bytes:
    """By marshal if all values are plain, which takes a fifth of pickle's time."""
    try:
        return _PLAIN + marshal.dumps(values)
    except ValueError:  # records within the sample
        return _PICKLED + pickle.dumps(values, protocol=pickle.HIGHEST_PROTOCOL)


def _deserialize(data: memoryview) -> Sample:
    values = marshal.loads(data[1:]) if data[:1] == _PLAIN else pickle.loads(data[1:])
    if isinstance(values["image"], str):
        values["image"] = Path(values["image"])
    return Sample(**values)


@contextmanager
def garbage_collection_disabled() -> Iterator[None]:
    """While millions of permanent objects are created, the collector would search all of them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
