"""Samples of any data → tar shards with a manifest: in parallel, resumable, with equal bytes on every machine.

    train-00000.tar:  000000000.jpg  000000000.json  000000000.txt  000000001.jpg …

The json has the Sample's fields, the txt its first caption for other tools. A shard is complete under its name or absent;
its counts are in `.train-00000.json` beside it until the manifest is written, so a killed run continues with the next
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

from vlp.data.images import EXTENSIONS, ImageError, decode_region, to_rgb
from vlp.data.issues import MAX_EXAMPLES
from vlp.data.sample_photos import open_sample_photo
from vlp.data.shards.index import ShardIndex, read_index
from vlp.data.shards.manifest import MANIFEST_NAME, Shard, ShardManifest
from vlp.data.shards.record import sample_to_json
from vlp.data.shards.store import ShardStore
from vlp.data.view import View, to_full_image
from vlp.random import permutation
from vlp.structures import Member, Sample
from vlp.system.atomic import atomic_write_text
from vlp.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """samples_per_shard: at most.  side: photos with a longer shorter side are resized to it; None = files are copied
    unchanged.  quality: of resized JPEGs.  shuffle: shuffle the training samples once before packing, since training
    shuffles only neighbouring shards.  max_bad_fraction: of a split's samples that may be skipped as unreadable."""

    samples_per_shard: int = 2000
    side: int | None = None
    quality: int = 92
    shuffle: bool = True
    max_bad_fraction: float = 0.01
    workers: int = 1


@dataclass
class PackedShard:
    """A written shard; left_out: how many samples were skipped as unreadable, with the first messages in `examples`."""

    shard: Shard
    left_out: int = 0
    examples: list[str] = field(default_factory=list)


def pack_splits(
    splits: Mapping[str, Sequence[Sample]],
    folder: Path,
    options: PackOptions,
    *,
    class_names: tuple[str, ...] | None = None,
    answer_names: tuple[str, ...] | None = None,
    progress: Callable[[str, int, int], None] = lambda split, done, of_all: None,
) -> ShardManifest:
    """Raises ImageError for an unreadable photo of val or test, or too many of them in training.

    progress: called with the split and the numbers of its packed and of all its shards.
    """
    if options.samples_per_shard < 1 or options.workers < 1:
        raise UserError("samples per shard and workers must be above 0")
    folder.mkdir(parents=True, exist_ok=True)
    if any(len(samples) and samples[0].panoptic is not None for samples in splits.values()):
        raise UserError("shards do not hold panoptic segmentations: set data.panoptic=false")
    done: dict[str, list[PackedShard]] = {}
    for split, samples in splits.items():
        order = permutation(len(samples), 0).tolist() if options.shuffle and split == "train" else range(len(samples))
        jobs: list[tuple[str, Sequence[int]]] = [
            (f"{split}-{number:05d}.tar", order[start : start + options.samples_per_shard])
            for number, start in enumerate(range(0, len(samples), options.samples_per_shard))
        ]
        done[split] = _pack_shards(
            jobs, samples, folder, options, training=split == "train", progress=partial(progress, split)
        )
        skipped = sum(packed.left_out for packed in done[split])
        if skipped > options.max_bad_fraction * len(samples):
            examples = "; ".join(example for packed in done[split] for example in packed.examples[:1])
            raise ImageError(
                f"{skipped} of {len(samples)} {split} samples cannot be packed, more than {options.max_bad_fraction:g} of them: "
                f"{examples}"
            )
    manifest = ShardManifest(
        splits={split: [packed.shard for packed in shards] for split, shards in done.items()},
        class_names=class_names,
        answer_names=answer_names,
        left_out={split: sum(packed.left_out for packed in shards) for split, shards in done.items()},
    )
    atomic_write_text(folder / MANIFEST_NAME, manifest.to_json())
    for shards in done.values():
        for packed in shards:
            _progress_path(folder, packed.shard.name).unlink(missing_ok=True)
    return manifest


def _pack_shards(
    jobs: list[tuple[str, Sequence[int]]],
    samples: Sequence[Sample],
    folder: Path,
    options: PackOptions,
    *,
    training: bool,
    progress: Callable[[int, int], None],
) -> list[PackedShard]:
    packed_by_name: dict[str, PackedShard] = {}
    pack_one = partial(pack_shard, folder=folder, options=options, training=training)
    if options.workers == 1:
        for name, numbers in jobs:
            packed_by_name[name] = pack_one(name, [samples[number] for number in numbers])
            progress(len(packed_by_name), len(jobs))
        return [packed_by_name[name] for name, _ in jobs]
    # not forked: a fork of a process that has used torch's threads may hang
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        remaining_jobs = iter(jobs)
        running = {}
        for name, numbers in remaining_jobs:
            running[pool.submit(pack_one, name, [samples[number] for number in numbers])] = name
            if len(running) >= 2 * options.workers:  # else all samples would be in memory at once
                _collect_next(running, packed_by_name)
                progress(len(packed_by_name), len(jobs))
        while running:
            _collect_next(running, packed_by_name)
            progress(len(packed_by_name), len(jobs))
    return [packed_by_name[name] for name, _ in jobs]


def _collect_next(running: dict[Any, str], packed_by_name: dict[str, PackedShard]) -> None:
    ready = next(as_completed(running))
    packed_by_name[running.pop(ready)] = ready.result()


def pack_shard(
    name: str, samples: Sequence[Sample], *, folder: Path, options: PackOptions, training: bool
) -> PackedShard:
    """Writes one shard, unless it exists and was packed from the same samples with the same options."""
    key = _input_digest(samples, options)
    if (earlier := _read_packed_shard(folder, name, key)) is not None:
        return earlier
    packed = PackedShard(Shard(name=name))
    part = folder / f".{name}.part"
    count = 0
    with part.open("wb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for sample in samples:
            try:
                extension, data, packed_sample = _encode_photo(sample, options)
            except ImageError as error:
                if not training:
                    raise ImageError(f"skipping it would change the metric: {error}") from error
                packed.left_out += 1
                if len(packed.examples) < MAX_EXAMPLES:
                    packed.examples.append(str(error))
                continue
            for ending, content in [(extension, data), *_text_files(packed_sample)]:
                member = tarfile.TarInfo(f"{count:09d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            count += 1
    with part.open("rb") as written:
        os.fsync(written.fileno())
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    packed.shard = Shard(name=name, samples=count, bytes=part.stat().st_size, sha256=digest)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)  # an earlier one lists other shards
    os.replace(part, folder / name)
    progress = {**vars(packed.shard), "key": key, "left_out": packed.left_out, "examples": packed.examples}
    atomic_write_text(_progress_path(folder, name), json.dumps(progress))
    return packed


def _progress_path(folder: Path, name: str) -> Path:
    return folder / f".{name.removesuffix('.tar')}.json"


def _input_digest(samples: Sequence[Sample], options: PackOptions) -> str:
    digest = hashlib.sha256(f"{options.side} {options.quality}".encode())
    for sample in samples:
        digest.update(f"{sample} {_file_version(sample)}\n".encode(errors="backslashreplace"))
    return digest.hexdigest()


def _file_version(sample: Sample) -> str:
    """Size and modification time of the photo's file, which change if it is replaced."""
    if isinstance(sample.image, Member):
        return ""
    try:
        status = os.stat(sample.image)
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _read_packed_shard(folder: Path, name: str, key: str) -> PackedShard | None:
    try:
        progress = json.loads(_progress_path(folder, name).read_text(encoding="utf-8"))
        if progress["key"] != key or (folder / name).stat().st_size != progress["bytes"]:
            return None
        shard = Shard(**{field: progress[field] for field in ("name", "samples", "bytes", "sha256")})
        return PackedShard(shard, progress["left_out"], progress["examples"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not packed yet, or the progress file of a killed run


def _encode_photo(sample: Sample, options: PackOptions) -> tuple[str, bytes, Sample]:
    """The extension and the bytes of the packed photo, and the sample with its boxes in that photo's pixels. The file is
    copied unchanged unless it is to be resized or cropped."""
    photo = open_sample_photo(sample)
    shrink = options.side is not None and min(photo.size) > options.side
    image = decode_region(photo)  # decoded even if copied, so that unreadable files are found now
    if not shrink and photo.region is None:
        return EXTENSIONS[photo.format][0], photo.encoded, sample
    if sample.box_masks:
        message = f"{sample.image}: masks cannot be made smaller with their photo: set data.masks=false, or pack photos unchanged"
        raise UserError(message)
    sample = replace(sample, crop=None, border=0)
    scale = options.side / min(photo.size) if shrink and options.side is not None else 1.0
    width, height = (max(1, round(side * scale)) for side in photo.size)
    stream = io.BytesIO()
    resized = to_rgb(image).resize((width, height), PIL.Image.Resampling.BICUBIC, reducing_gap=3.0)
    resized.save(stream, "JPEG", quality=options.quality, subsampling=0)
    if sample.boxes is not None:
        view = View(left=0, top=0, width=photo.size[0], height=photo.size[1], size=(height, width))
        corners, visible = to_full_image(photo, view).project_boxes(sample.boxes)
        boxes = tuple(map(tuple, (corners * corners.new_tensor([width, height] * 2)).tolist()))
        of_boxes = ("box_labels", "box_crowds", "box_captions")
        kept: dict[str, Any] = {
            name: tuple(value[i] for i in visible) for name in of_boxes if (value := getattr(sample, name))
        }
        if len(boxes) < len(sample.boxes) and sample.captions and not (sample.box_labels or sample.box_captions):
            kept["box_captions"] = tuple(visible)  # box i is no longer of caption i
        sample = replace(sample, boxes=boxes, **kept, **_mentions_of(sample, visible))
    return "jpg", stream.getvalue(), sample


def _mentions_of(sample: Sample, kept: Sequence[int]) -> dict[str, Any]:
    """The sample's marks and tags, counted by the boxes that are kept.  kept: their positions among all."""
    position = {old: new for new, old in enumerate(kept)}
    marks = [number for number, box in enumerate(sample.marks) if box in position]
    return {
        "marks": tuple(position[sample.marks[number]] for number in marks),
        "mark_colours": tuple(sample.mark_colours[number] for number in marks),
        "tags": tuple(
            tag._replace(boxes=tuple(position[box] for box in tag.boxes if box in position)) for tag in sample.tags
        ),
    }


def _text_files(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield "json", sample_to_json(sample).encode()
    if sample.captions:
        yield "txt", sample.captions[0].encode()


def describe_shard(store: ShardStore, name: str) -> tuple[Shard, ShardIndex]:
    """The manifest's entry of a shard of any origin, and its index, which has the faults."""
    path = store.local_path(Shard(name=name))
    index = read_index(path)
    with path.open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    left_out = index.faults.total()
    shard = Shard(name=name, samples=len(index), bytes=path.stat().st_size, sha256=digest, left_out=left_out)
    return shard, index
