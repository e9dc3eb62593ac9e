"""Which files a set of scenes has, apart from its images and additions: contents by name, in the order of writing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vlp.scenes import formats
from vlp.scenes.formats import Described, ImageRecord


def files_of_split(records: Sequence[ImageRecord], split: str) -> Iterator[tuple[str, Any]]:
    """split: one of picture.SPLITS, whose records these are."""
    yield f"annotations/captions_{split}.json", formats.coco_captions(records)
    yield f"annotations/instances_{split}.json", formats.coco_instances(records)
    asked, answered = formats.vqa(records, split)
    yield f"vqa/v2_OpenEnded_mscoco_{split}_questions.json", asked
    yield f"vqa/v2_mscoco_{split}_annotations.json", answered
    yield f"sugarcrepe/swap_{split}.json", formats.sugarcrepe(records)
    if split in ("val", "test"):  # what only evaluation asks for
        yield f"cloze/{split}.json", formats.cloze(records)


def files_of_all(records: Sequence[ImageRecord]) -> Iterator[tuple[str, Any]]:
    yield from _also_true(records)
    yield "dataset_coco.json", formats.karpathy(records)
    for name, content in formats.visual_genome(records).items():
        yield f"visual_genome/{name}.json", content
    yield from _flickr(records)


def crowded_files_of_split(records: Sequence[Described], split: str) -> Iterator[tuple[str, Any]]:
    yield f"annotations/captions_{split}.json", formats.coco_captions(records)
    yield f"annotations/instances_{split}.json", formats.coco_instances(records)
    yield f"things/{split}.json", formats.list_things(records)


def crowded_files_of_all(records: Sequence[Described]) -> Iterator[tuple[str, Any]]:
    yield from _also_true(records)
    yield "dataset_coco.json", formats.karpathy(records)
    yield from _flickr(records)


def _also_true(records: Sequence[Described]) -> Iterator[tuple[str, Any]]:
    for split, parts in formats.PARTS.items():
        yield f"also_true/{split}.json", formats.also_true([r for r in records if r.split in parts])


def _flickr(records: Sequence[Described]) -> Iterator[tuple[str, Any]]:
    for name, text in formats.flickr(records).items():
        yield f"flickr/{name}", text
