"""Selects the samples of a data set to train on: useless images and captions, and images of evaluation sets, are left out.

    kept, report = clean_data({"train": …, "val": …, "test": …}, CleanOptions(min_side=200), evaluation={"flickr/test": …})
    write_sample_table(kept, Path("clean.jsonl"), root=root)

Captions are cleaned first, so that of several copies an image without captions is not the one that is kept. Nothing is
deleted from disk. Only training data are cleaned by default, since leaving out test images would change the metric.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from vlp.curation.clean.caption_filter import filter_captions
from vlp.curation.clean.image_filter import ListedImage, find_copies, find_unusable_images
from vlp.curation.clean.options import CleanOptions
from vlp.curation.clean.report import CleanReport, count_images_and_captions
from vlp.structures import Sample
from vlp.system.errors import UserError


def clean_data(
    samples: Mapping[str, Iterable[Sample]],
    options: CleanOptions | None = None,
    *,
    evaluation: Mapping[str, Iterable[Sample]] | None = None,
) -> tuple[dict[str, list[Sample]], CleanReport]:
    """samples: by split, in the order train, val, test: an image of several splits is kept in the last one.
    evaluation: samples of other data sets, by name, whose photos must not be trained on.

    Returns the kept samples of all splits, also of those that are not cleaned.  Raises UserError.
    """
    options = options or CleanOptions()
    kept = {split: list(split_samples) for split, split_samples in samples.items()}
    unknown = [split for split in options.splits if split not in kept]
    if unknown:
        raise UserError(f"there is no split {', '.join(unknown)} to clean: there are {', '.join(kept)}")
    report = CleanReport(options=asdict(options), before=count_images_and_captions(kept))
    for split in options.splits:
        if not any(sample.captions for sample in kept[split]):
            raise UserError(f"the {split} samples have no captions: choose data with captions to clean")
        kept[split] = filter_captions(kept[split], options, report)
    kept = _drop_images(kept, find_unusable_images, options, report, {})
    kept = _drop_images(kept, find_copies, options, report, (evaluation or {}) if options.evaluation else {})
    report.after = count_images_and_captions(kept)
    return kept, report


def _drop_images(
    kept: dict[str, list[Sample]],
    select: Callable[[list[ListedImage], CleanOptions, CleanReport], set[int]],
    options: CleanOptions,
    report: CleanReport,
    evaluation: Mapping[str, Iterable[Sample]],
) -> dict[str, list[Sample]]:
    """The samples without those whose image `select` returns."""
    listed: list[ListedImage] = []
    for rank, (name, samples) in enumerate([*kept.items(), *evaluation.items()]):
        cleaned = rank < len(kept) and name in options.splits
        if cleaned or options.evaluation:
            listed += _list_images(samples, name, rank, cleaned)
    dropped = {(listed[index].name, str(listed[index].image)) for index in select(listed, options, report)}
    return {
        split: [sample for sample in samples if (split, str(sample.image)) not in dropped]
        for split, samples in kept.items()
    }


def _list_images(samples: Iterable[Sample], name: str, rank: int, cleaned: bool) -> list[ListedImage]:
    images: dict[str, Any] = {}
    captions: Counter[str] = Counter()
    for sample in samples:
        images[str(sample.image)] = sample.image
        captions[str(sample.image)] += len(sample.captions)
    return [ListedImage(image, name, rank, captions[path], cleaned) for path, image in images.items()]
