"""The positions of each sample's files in a tar, in webdataset's convention; only headers are read.

Consecutive files whose paths are equal up to the first dot of the file's name are one sample: `a/1.jpg a/1.json a/1.txt`.
The rest is the file's kind, so `a/1.depth.png` is a further part of sample `a/1`; an image that is no part of any sample, as
`a/1.0.jpg` beside `a/1.0.txt`, is a fault. Hidden names are passed over. Only plain files are used: links, devices and paths
with `..` are refused, and nothing is unpacked. A tar that is cut off or damaged gives the samples before that point.
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

from vlp.data.images import IMAGE_EXTENSIONS, is_hidden
from vlp.data.issues import MAX_EXAMPLES, DataError
from vlp.system.compat.stdlib import tar_members

TEXT_EXTENSIONS = ("json", "txt", "cls")  # a sample needs at least one of them
PARTS = ("image", *TEXT_EXTENSIONS)
MAX_TEXT_BYTES = 16 << 20  # bytes of a json or txt file

SampleParts = dict[str, tuple[int, int, str]]  # offset, bytes and path of each part of a sample


@dataclass
class ShardIndex:
    """files[i, p]: offset and bytes of part p of sample i in the tar, bytes -1 if it is absent.  images[i]: path of the image
    in the tar.  faults: how many of each kind were skipped; examples: the first of each kind."""

    files: np.ndarray  # int64 [n, 4, 2]
    images: list[str]
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def add_fault(self, kind: str, example: str) -> None:
        self.faults[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(example)


def read_index(path: Path) -> ShardIndex:
    """Raises DataError if the file is empty or no tar."""
    index = ShardIndex(files=np.zeros((0, len(PARTS), 2), dtype=np.int64), images=[])
    size = os.stat(path).st_size
    if size == 0:
        raise DataError("empty shard", f"{path}: a shard of 0 bytes; download or pack it again")
    with path.open("rb") as stream:
        if stream.read(2) == b"\x1f\x8b":
            raise DataError(
                "compressed shard", f"{path}: compressed with gzip, in which samples have no position; gunzip it"
            )
    samples: dict[str, SampleParts] = {}
    other_names: list[PurePosixPath] = []
    try:
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:", errorlevel=1) as archive:
            _index_members(archive, samples, other_names, index, file_bytes=size, location=str(path))
            if not index.faults["shard cut off"]:
                _check_archive_end(stream, archive.offset, index, file_bytes=size, location=str(path))
    except (
        tarfile.TarError,
        ValueError,
        OverflowError,
    ) as error:  # tarfile does not check the numbers of damaged headers
        if not samples:
            raise DataError("not a tar", f"{path}: not a tar file ({error}); download or pack it again") from error
        index.add_fault("shard cut off", f"{path}: {error}")
    _report_unused_images(other_names, samples, index, location=str(path))
    rows: list[Any] = []
    for key, parts in samples.items():
        if "image" not in parts:
            index.add_fault("sample without image", f"{path}: {key}")
        elif len(parts) == 1:
            index.add_fault("sample without text", f"{path}: {key}")
        else:
            index.images.append(parts["image"][2])
            rows.append([parts[part][:2] if part in parts else (0, -1) for part in PARTS])
    index.files = np.array(rows, dtype=np.int64).reshape(len(rows), len(PARTS), 2)
    return index


def _index_members(
    archive: tarfile.TarFile,
    samples: dict[str, SampleParts],
    other_names: list[PurePosixPath],
    index: ShardIndex,
    *,
    file_bytes: int,
    location: str,
) -> None:
    """Adds the members to `samples`, and to `other_names` the images and texts whose kind no part has."""
    current = None
    for member in tar_members(archive):
        if member.isdir():
            continue
        path = PurePosixPath(member.name)
        if not member.isreg() or member.name.startswith("/") or ".." in path.parts or "\\" in member.name:
            index.add_fault("refused member", f"{location}: {member.name[:80]!r} is no plain file below the shard")
            continue
        if is_hidden(path):
            continue
        key, kind = _split_name(path)
        if member.offset_data + member.size > file_bytes:
            index.add_fault("shard cut off", f"{location}: ends within {member.name}")
            samples.pop(key, None)  # the sample is incomplete
            return
        part = "image" if kind in IMAGE_EXTENSIONS else kind
        if part not in PARTS:
            if path.suffix.lower()[1:] in (*IMAGE_EXTENSIONS, *TEXT_EXTENSIONS):
                other_names.append(path)
            continue  # other tools store more kinds, such as features, depths or segments
        if part != "image" and member.size > MAX_TEXT_BYTES:
            index.add_fault("refused member", f"{location}: {member.name} has {member.size} bytes of text")
        elif (key != current and key in samples) or part in samples.get(key, ()):
            index.add_fault("duplicate key", f"{location}: {member.name}")
        else:
            samples.setdefault(key, {})[part] = (member.offset_data, member.size, member.name)
            current = key


def _split_name(path: PurePosixPath) -> tuple[str, str]:
    """The key of the file's sample and the file's kind: `a/1.Depth.png` → `a/1`, `depth.png`."""
    stem, _, kind = path.name.partition(".")
    return (path.parent / stem).as_posix(), kind.lower()


def _report_unused_images(
    names: list[PurePosixPath], samples: dict[str, SampleParts], index: ShardIndex, *, location: str
) -> None:
    """names: images and texts of which no sample is made. An image without a text of its name is a further part of its
    sample, if that has its own image; any other image was meant as a sample."""
    texts = {name.with_suffix("") for name in names if name.suffix.lower()[1:] in TEXT_EXTENSIONS}
    for name in names:
        key, _ = _split_name(name)
        further_part = "image" in samples.get(key, {}) and name.with_suffix("") not in texts
        if name.suffix.lower()[1:] in IMAGE_EXTENSIONS and not further_part:
            index.add_fault(
                "image of no sample", f"{location}: {name}, whose sample is {key}: the first dot ends its name"
            )


def _check_archive_end(stream: BinaryIO, offset: int, index: ShardIndex, *, file_bytes: int, location: str) -> None:
    """A tar ends with blocks of zeros. tarfile reads a damaged header as the end, so samples behind it would be lost."""
    if offset + tarfile.BLOCKSIZE > file_bytes:
        index.add_fault("shard cut off", f"{location}: the end marker of a tar is missing")
        return
    stream.seek(offset)
    while tail := stream.read(1 << 20):
        if tail.strip(b"\0"):
            index.add_fault(
                "shard cut off", f"{location}: damaged at byte {offset}, or another tar is joined to it there"
            )
            return


def load_or_make_index(path: Path, file: Path, stamp: list[int]) -> ShardIndex:
    """The index in `file` if it was made of a shard with the same stamp; else a new one, which is saved there if possible.

    Making it reads the headers of the complete tar. An index of an earlier version, which knew fewer faults, has no entry
    "details" and is made again.
    """
    try:
        with np.load(file, allow_pickle=False) as cached:
            if cached["stamp"].tolist() == stamp:
                details = json.loads(str(cached["details"]))
                return ShardIndex(cached["files"], details["images"], Counter(details["faults"]), details["examples"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # absent or cut off: it is made again
    index = read_index(path)
    details = {"images": index.images, "faults": dict(index.faults), "examples": index.examples}
    part = file.with_name(f"{file.name}.{os.getpid()}.part.npz")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(part, stamp=np.array(stamp), files=index.files, details=np.array(json.dumps(details)))
        os.replace(part, file)
    except OSError:  # the folder is read-only or the disk full: the next process reads the tar again
        part.unlink(missing_ok=True)
    return index
