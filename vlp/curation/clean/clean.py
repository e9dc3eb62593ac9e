"""Which samples of a data set to train on: images and captions that are no use, or would spoil a test, are left out.

    kept, report = clean({"train": …, "val": …, "test": …}, CleanOptions(min_side=200), evaluation={"flickr/test": …})
    write_cleaned(kept, Path("clean.jsonl"), root=root)

Captions come first, so that an image without any does not stand in for its copies. Nothing is deleted from disk. Only
training data are cleaned by default, since leaving out test images would change the metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict

from vlp.curation.clean.caption_filter import clean_captions
from vlp.curation.clean.image_filter import Listed, copies, misshapen
from vlp.curation.clean.options import CleanOptions
from vlp.curation.clean.report import CleanReport, sizes
from vlp.structures import Sample
from vlp.system.errors import UserError


def clean(
    samples: Mapping[str, Iterable[Sample]],
    options: CleanOptions | None = None,
    *,
    evaluation: Mapping[str, Iterable[Sample]] | None = None,
) -> tuple[dict[str, list[Sample]], CleanReport]:
    """samples: by split, in the order train, val, test: an image of several stays in the last one.
    evaluation: samples of other data sets, by name, whose photos must not be trained on.

    Returns all samples that stay, those of the splits that are not cleaned included.
    """
    options = options or CleanOptions()
    kept = {split: list(found) for split, found in samples.items()}
    unknown = [split for split in options.splits if split not in kept]
    if unknown:
        raise UserError(f"there is no split {', '.join(unknown)} to clean: there are {', '.join(kept)}")
    report = CleanReport(options=asdict(options), before={split: sizes(found) for split, found in kept.items()})
    for split in options.splits:
        if not any(sample.captions for sample in kept[split]):
            raise UserError(f"the {split} samples have no captions: choose data with captions to clean")
        kept[split] = clean_captions(kept[split], options, report)
    kept = _without(kept, misshapen, options, report, {})
    kept = _without(kept, copies, options, report, (evaluation or {}) if options.evaluation else {})
    report.after = {split: sizes(found) for split, found in kept.items()}
    return kept, report


def _without(
    kept: dict[str, list[Sample]],
    choose: Callable[[list[Listed], CleanOptions, CleanReport], set[int]],
    options: CleanOptions,
    report: CleanReport,
    evaluation: Mapping[str, Iterable[Sample]],
) -> dict[str, list[Sample]]:
    """The samples whose image is not chosen to be dropped."""
    listed: list[Listed] = []
    for rank, (name, samples) in enumerate([*kept.items(), *evaluation.items()]):
        cleaned = rank < len(kept) and name in options.splits
        if cleaned or options.evaluation:
            listed += _listed(samples, name, rank, cleaned)
    dropped = choose(listed, options, report)
    gone = {(listed[index].name, str(listed[index].image)) for index in dropped}
    return {
        split: [sample for sample in samples if (split, str(sample.image)) not in gone]
        for split, samples in kept.items()
    }


def _listed(samples: Iterable[Sample], name: str, rank: int, cleaned: bool) -> list[Listed]:
    images: dict[str, Listed] = {}
    for sample in samples:
        captions = len(sample.captions)
        if (before := images.get(str(sample.image))) is not None:
            captions += before.captions
        images[str(sample.image)] = Listed(sample.image, name, rank, captions, cleaned)
    return list(images.values())
