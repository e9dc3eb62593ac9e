"""Where the files of each sample lie in a tar: webdataset's convention, read by the headers alone.

Files next to each other whose paths agree up to the first dot of the file's name are one sample: `a/1.jpg a/1.json
a/1.txt`; what follows that dot is the kind, so `a/1.depth.png` is none of these. Only plain files count: links, devices
and paths that lead upwards are refused, and nothing is ever unpacked. A tar that ends in the middle of a file, or is damaged
in its middle, gives the samples before that.
"""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from vlp.data.issues import EXAMPLES, DataError
from vlp.system.compat.stdlib import tar_members

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TEXTS = ("json", "txt", "cls")  # what tells of an image: at least one of them must be there
PARTS = ("image", *TEXTS)
MAX_TEXT = 16 << 20  # bytes of a json or txt file

Parts = dict[str, tuple[int, int, str]]  # offset, bytes and path of each part of a sample


@dataclass
class ShardIndex:
    """files[i, p] = (offset, bytes) of part p of sample i in the tar, bytes -1 where there is none; images[i]: its path in
    the tar.  faults: how many of each kind were left out, examples: the first of each kind."""

    files: np.ndarray  # int64 [n, 4, 2]
    images: list[str]
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def fault(self, kind: str, example: str) -> None:
        self.faults[kind] += 1
        told = self.examples.setdefault(kind, [])
        if len(told) < EXAMPLES:
            told.append(example)


def read_index(path: Path) -> ShardIndex:
    """Raises DataError where the file is no tar at all."""
    index = ShardIndex(files=np.zeros((0, len(PARTS), 2), dtype=np.int64), images=[])
    size = os.stat(path).st_size
    if size == 0:
        raise DataError("empty shard", f"{path}: a shard of 0 bytes; download or pack it again")
    samples: dict[str, Parts] = {}
    try:
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:", errorlevel=1) as archive:
            _read_members(archive, samples, index, size=size, place=str(path))
            if not index.faults["shard cut off"]:
                _check_end(stream, archive.offset, index, size=size, place=str(path))
    except (tarfile.TarError, ValueError, OverflowError) as error:  # tarfile lets numbers of damaged headers pass
        if not samples:
            raise DataError("not a tar", f"{path}: not a tar file ({error}); download or pack it again") from error
        index.fault("shard cut off", f"{path}: {error}")
    rows: list[Any] = []
    for key, parts in samples.items():
        if "image" not in parts:
            index.fault("sample without image", f"{path}: {key}")
        elif len(parts) == 1:
            index.fault("sample without text", f"{path}: {key}")
        else:
            index.images.append(parts["image"][2])
            rows.append([parts[part][:2] if part in parts else (0, -1) for part in PARTS])
    index.files = np.array(rows, dtype=np.int64).reshape(len(rows), len(PARTS), 2)
    return index


def _read_members(
    archive: tarfile.TarFile, samples: dict[str, Parts], index: ShardIndex, *, size: int, place: str
) -> None:
    current = None
    for member in tar_members(archive):
        if member.isdir():
            continue
        path = PurePosixPath(member.name)
        if not member.isreg() or member.name.startswith("/") or ".." in path.parts or "\\" in member.name:
            index.fault("refused member", f"{place}: {member.name[:80]!r} is no plain file below the shard")
            continue
        stem, _, kind = path.name.partition(".")
        key, kind = (path.parent / stem).as_posix(), kind.lower()
        if member.offset_data + member.size > size:
            index.fault("shard cut off", f"{place}: ends within {member.name}")
            samples.pop(key, None)  # what is there of the sample is not all of it
            return
        part = "image" if kind in IMAGES else kind
        if part not in PARTS:
            continue  # other tools keep more there, features, depths or segments
        if part != "image" and member.size > MAX_TEXT:
            index.fault("refused member", f"{place}: {member.name} has {member.size} bytes of text")
        elif (key != current and key in samples) or part in samples.get(key, ()):
            index.fault("duplicate key", f"{place}: {member.name}")
        else:
            samples.setdefault(key, {})[part] = (member.offset_data, member.size, member.name)
            current = key


def _check_end(stream: BinaryIO, offset: int, index: ShardIndex, *, size: int, place: str) -> None:
    """A tar ends with blocks of zeros. tarfile takes a damaged header for the end, and the samples behind it are lost."""
    if offset + tarfile.BLOCKSIZE > size:
        index.fault("shard cut off", f"{place}: the end that every tar has is missing")
        return
    stream.seek(offset)
    while rest := stream.read(1 << 20):
        if rest.strip(b"\0"):
            index.fault("shard cut off", f"{place}: damaged at byte {offset}, or another tar is joined to it there")
            return


def cached_index(path: Path, file: Path, stamp: list[int]) -> ShardIndex:
    """As a tar has to be read through for its index, that is kept beside the fetched shards.

    Read from `file` if that was made of a shard of the same stamp, else made, and kept there if it can be.
    """
    try:
        with np.load(file, allow_pickle=False) as kept:
            if kept["stamp"].tolist() == stamp:
                told = json.loads(str(kept["told"]))
                return ShardIndex(kept["files"], told["images"], Counter(told["faults"]), told["examples"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # none yet, or one that was cut off: it is made again
    index = read_index(path)
    told = {"images": index.images, "faults": dict(index.faults), "examples": index.examples}
    part = file.with_name(f"{file.name}.{os.getpid()}.part.npz")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(part, stamp=np.array(stamp), files=index.files, told=np.array(json.dumps(told)))
        os.replace(part, file)
    except OSError:  # a folder that cannot be written to, or is full: the next process reads the tar itself
        part.unlink(missing_ok=True)
    return index
