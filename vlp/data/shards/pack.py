"""Samples of any data → tar shards with a manifest: in parallel, resumable, the same bytes wherever it runs.

    train-00000.tar:  000000000.jpg  000000000.json  000000000.txt  000000001.jpg …

The json holds the Sample's fields, the txt its first caption for other tools. A shard appears whole or not at all, with
its numbers in `.train-00000.json` beside it until the manifest is written, so a run that was killed goes on with the next
shard. Times and owners in the tar are zero.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import PIL.Image

from vlp.data.images import ImageError, load, open_photo, to_rgb
from vlp.data.issues import EXAMPLES
from vlp.data.shards.index import read_index
from vlp.data.shards.manifest import NAME, Manifest, Shard
from vlp.data.shards.record import record_of
from vlp.data.shards.store import ShardStore
from vlp.data.view import View, in_whole
from vlp.random import permutation
from vlp.structures import Member, Sample
from vlp.system.atomic import atomic_write_text
from vlp.system.errors import UserError

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """samples_per_shard: at most.  side: a photo whose shorter side is longer is made smaller; None = files go in as they
    are.  quality: of JPEGs that are made smaller.  shuffle: mix training samples once beforehand, as training later mixes
    neighbouring shards alone.  max_bad_fraction: of a split that may be left out because it cannot be read."""

    samples_per_shard: int = 2000
    side: int | None = None
    quality: int = 92
    shuffle: bool = True
    max_bad_fraction: float = 0.01
    workers: int = 1


@dataclass
class Packed:
    """What went into a shard, and what did not."""

    shard: Shard
    left_out: int = 0
    examples: list[str] = field(default_factory=list)


def pack(
    splits: Mapping[str, Sequence[Sample]],
    folder: Path,
    options: PackOptions,
    *,
    class_names: tuple[str, ...] | None = None,
    answer_names: tuple[str, ...] | None = None,
    progress: Callable[[str, int, int], None] = lambda split, done, of_all: None,
) -> Manifest:
    """Raises ImageError for a photo that cannot be read outside training, or where too many of a split cannot.

    progress: called with the split, its packed and its planned shards.
    """
    if options.samples_per_shard < 1 or options.workers < 1:
        raise UserError("samples per shard and workers must be above 0")
    folder.mkdir(parents=True, exist_ok=True)
    if any(len(samples) and samples[0].panoptic is not None for samples in splits.values()):
        raise UserError("shards do not hold panoptic segmentations: set data.panoptic=false")
    done: dict[str, list[Packed]] = {}
    for split, samples in splits.items():
        order = permutation(len(samples), 0).tolist() if options.shuffle and split == "train" else range(len(samples))
        jobs: list[tuple[str, Sequence[int]]] = [
            (f"{split}-{number:05d}.tar", order[start : start + options.samples_per_shard])
            for number, start in enumerate(range(0, len(samples), options.samples_per_shard))
        ]
        done[split] = _pack_all(
            jobs, samples, folder, options, training=split == "train", progress=partial(progress, split)
        )
        bad = sum(packed.left_out for packed in done[split])
        if bad > options.max_bad_fraction * len(samples):
            examples = "; ".join(example for packed in done[split] for example in packed.examples[:1])
            raise ImageError(
                f"{bad} of {len(samples)} {split} samples cannot be packed, more than {options.max_bad_fraction:g} of them: "
                f"{examples}"
            )
    manifest = Manifest(
        splits={split: [packed.shard for packed in shards] for split, shards in done.items()},
        class_names=class_names,
        answer_names=answer_names,
        left_out={split: sum(packed.left_out for packed in shards) for split, shards in done.items()},
    )
    atomic_write_text(folder / NAME, manifest.text())
    for shards in done.values():
        for packed in shards:
            _note(folder, packed.shard.name).unlink(missing_ok=True)
    return manifest


def _pack_all(
    jobs: list[tuple[str, Sequence[int]]],
    samples: Sequence[Sample],
    folder: Path,
    options: PackOptions,
    *,
    training: bool,
    progress: Callable[[int, int], None],
) -> list[Packed]:
    found: dict[str, Packed] = {}
    work = partial(pack_shard, folder=folder, options=options, training=training)
    if options.workers == 1:
        for name, numbers in jobs:
            found[name] = work(name, [samples[number] for number in numbers])
            progress(len(found), len(jobs))
        return [found[name] for name, _ in jobs]
    # spawned: a fork of a process that has used torch's threads may hang
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        waiting = iter(jobs)
        running = {}
        for name, numbers in waiting:
            running[pool.submit(work, name, [samples[number] for number in numbers])] = name
            if len(running) >= 2 * options.workers:  # else all samples would wait in memory
                _collect(running, found)
                progress(len(found), len(jobs))
        while running:
            _collect(running, found)
            progress(len(found), len(jobs))
    return [found[name] for name, _ in jobs]


def _collect(running: dict[Any, str], found: dict[str, Packed]) -> None:
    ready = next(as_completed(running))
    found[running.pop(ready)] = ready.result()


def pack_shard(name: str, samples: Sequence[Sample], *, folder: Path, options: PackOptions, training: bool) -> Packed:
    """A shard that was packed from the same samples with the same options is left as it is."""
    key = _key(samples, options)
    if (before := _packed_before(folder, name, key)) is not None:
        return before
    packed = Packed(Shard(name=name))
    part = folder / f".{name}.part"
    count = 0
    with part.open("wb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for sample in samples:
            try:
                extension, data, moved = _photo(sample, options)
            except ImageError as error:
                if not training:
                    raise ImageError(f"leaving it out would change the metric: {error}") from error
                packed.left_out += 1
                if len(packed.examples) < EXAMPLES:
                    packed.examples.append(str(error))
                continue
            for ending, content in [(extension, data), *_texts(moved)]:
                member = tarfile.TarInfo(f"{count:09d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            count += 1
    with part.open("rb") as written:
        os.fsync(written.fileno())
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    packed.shard = Shard(name=name, samples=count, bytes=part.stat().st_size, sha256=digest)
    (folder / NAME).unlink(missing_ok=True)  # of an earlier packing, which has other shards
    os.replace(part, folder / name)
    told = {"key": key, "left_out": packed.left_out, "examples": packed.examples, **vars(packed.shard)}
    atomic_write_text(_note(folder, name), json.dumps(told))
    return packed


def _note(folder: Path, name: str) -> Path:
    return folder / f".{name.removesuffix('.tar')}.json"


def _key(samples: Sequence[Sample], options: PackOptions) -> str:
    digest = hashlib.sha256(f"{options.side} {options.quality}".encode())
    for sample in samples:
        digest.update(f"{sample} {_version(sample)}\n".encode(errors="backslashreplace"))
    return digest.hexdigest()


def _version(sample: Sample) -> str:
    """What changes when a photo is replaced."""
    if isinstance(sample.image, Member):
        return ""
    try:
        status = os.stat(sample.image)
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _packed_before(folder: Path, name: str, key: str) -> Packed | None:
    try:
        told = json.loads(_note(folder, name).read_text(encoding="utf-8"))
        if told["key"] != key or (folder / name).stat().st_size != told["bytes"]:
            return None
        shard = Shard(**{field: told[field] for field in ("name", "samples", "bytes", "sha256")})
        return Packed(shard, told["left_out"], told["examples"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none yet, or the note of a run that was killed


def _photo(sample: Sample, options: PackOptions) -> tuple[str, bytes, Sample]:
    """The extension and the bytes: of the file as it is, unless it is to be smaller or only a part of it is meant; and the
    sample with its boxes where they are then."""
    photo = open_photo(sample.image)
    if sample.crop is not None:
        photo = photo.within(sample.crop)
    larger = options.side is not None and min(photo.size) > options.side
    image = load(photo)  # decoded in any case: what cannot be read is found now
    if not larger and sample.crop is None:
        return EXTENSIONS[photo.kind], photo.data, sample
    scale = options.side / min(photo.size) if larger and options.side is not None else 1.0
    width, height = (max(1, round(side * scale)) for side in photo.size)
    stream = io.BytesIO()
    made = to_rgb(image).resize((width, height), PIL.Image.Resampling.BICUBIC, reducing_gap=3.0)
    made.save(stream, "JPEG", quality=options.quality, subsampling=0)
    if sample.boxes is not None:
        view = View(left=0, top=0, width=photo.size[0], height=photo.size[1], size=(height, width))
        corners, seen = in_whole(photo, view).boxes(sample.boxes)
        boxes = tuple(map(tuple, (corners * corners.new_tensor([width, height] * 2)).tolist()))
        sample = replace(sample, boxes=boxes, box_labels=tuple(sample.box_labels[i] for i in seen if sample.box_labels))
    return "jpg", stream.getvalue(), sample


def _texts(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield "json", record_of(sample).encode()
    if sample.captions:
        yield "txt", sample.captions[0].encode()


def describe(store: ShardStore, name: str) -> tuple[Shard, Mapping[str, int]]:
    """A shard of any origin as a manifest has it, and how many of each fault were left out of it."""
    path = store.local(Shard(name=name))
    index = read_index(path)
    with path.open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    return Shard(name=name, samples=len(index), bytes=path.stat().st_size, sha256=digest), index.faults
