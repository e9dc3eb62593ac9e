"""`vlp data check`: all faults of data, with counts and examples.

Readers collect the faults of annotations (vlp/data/issues.py); every photo is decoded, the tokens of every text are counted,
the checksum of every shard is computed; splits and data sets are compared for photos that they share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from vlp.curation.check.image_checks import ImageCheck, check_existence, check_images, fault_kind, image_statistics
from vlp.curation.check.text_checks import TokenLengths, measure_token_lengths, text_faults
from vlp.curation.duplicates.overlap import OverlapReport, find_overlaps
from vlp.data.datamodule import SPLITS, DataModule
from vlp.data.images import ImageError
from vlp.data.issues import DataError, DataIssue, Faults
from vlp.data.packed_samples import PackedSamples, garbage_collection_disabled
from vlp.data.shards.index import read_index
from vlp.datasets.shards import Shards
from vlp.structures import Sample
from vlp.system.units import printable

EXAMPLE_SAMPLES = 24  # of each split, in the HTML report


@dataclass
class SplitReport:
    """Counts and faults of a split."""

    samples: int = 0
    images: int = 0
    captions: int = 0
    questions: int = 0
    findings: list[DataIssue] = field(default_factory=list)
    lengths: TokenLengths | None = None
    shapes: dict[str, Any] = field(default_factory=dict)
    example_samples: list[Sample] = field(default_factory=list)

    def sorted_findings(self) -> list[DataIssue]:
        """Fatal ones first, then the most frequent."""
        return sorted(self.findings, key=lambda issue: (not issue.fatal, -issue.count))


@dataclass
class CheckReport:
    """splits: by "<source>/<split>".  overlap: photos and captions that they share; None = not compared."""

    splits: dict[str, SplitReport] = field(default_factory=dict)
    overlap: OverlapReport | None = None

    @property
    def fatal(self) -> int:
        """The number of faults that would end a run."""
        return sum(issue.count for split in self.splits.values() for issue in split.findings if issue.fatal)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        content = asdict(self) | {"fatal": self.fatal}
        for split in content["splits"].values():
            del split["example_samples"]
        return content


def check_data(
    sources: Mapping[str, DataModule],
    tokenizer: Any = None,
    *,
    decode_images: bool = True,
    compare_images: bool = True,
    comparison_sources: Mapping[str, DataModule] | None = None,
    workers: int | None = None,
    report_progress: Callable[[str], None] = lambda message: None,
) -> CheckReport:
    """compare_images: search for photos that splits share, which decodes them as well.  comparison_sources: data sets of which
    only annotations and shared photos are checked.  The sources are changed: they collect faults from now on."""
    report = CheckReport()
    samples = _read_splits(sources, report, report_progress)
    if tokenizer is not None and not tokenizer.trained:
        tokenizer.train(text for name, split in samples.items() if name.endswith("/train") for text in _texts(split))
    image_checks: dict[str, ImageCheck] = {}
    for name, split_samples in samples.items():
        report_progress(f"{name}: {len(split_samples):,} samples")
        split = report.splits[name]
        evaluation = not name.endswith("/train")
        max_bad = 0.0 if evaluation else sources[name.rpartition("/")[0]].max_bad_fraction
        check = partial(check_images, workers=workers) if decode_images else check_existence
        _check_images(split_samples, split, image_checks, check, max_bad_fraction=max_bad)
        _check_texts(split_samples, split, tokenizer, evaluation=evaluation)
    if compare_images:
        report_progress("comparing photos")
        samples |= _read_splits(comparison_sources or {}, report, report_progress)
        report.overlap = find_overlaps({name: split for name, split in samples.items() if split}, workers=workers)
    return report


def _read_splits(
    sources: Mapping[str, DataModule], report: CheckReport, report_progress: Callable[[str], None]
) -> dict[str, PackedSamples]:
    """The readable samples of each split; adds the splits to the report."""
    splits = {}
    for name, source, split in ((name, source, split) for name, source in sources.items() for split in SPLITS):
        report_progress(f"reading {name}/{split}")
        source.faults = Faults(collect=True)
        samples = PackedSamples([])
        with source.faults.catch_errors(), garbage_collection_disabled():
            samples = PackedSamples(_readable_samples(source.samples(split), source.faults))
        if isinstance(source, Shards):
            _check_shards(source, split)
        report.splits[f"{name}/{split}"] = SplitReport(
            samples=len(samples),
            images=len({str(sample.image) for sample in samples if sample.has_image}),
            captions=sum(len(sample.captions) for sample in samples),
            questions=sum(sample.question is not None for sample in samples),
            findings=list(source.faults.issues.values()),
            example_samples=[
                samples[index] for index in range(0, len(samples), max(1, len(samples) // EXAMPLE_SAMPLES))
            ][:EXAMPLE_SAMPLES],
        )
        splits[f"{name}/{split}"] = samples
    return splits


def _readable_samples(samples: Sequence[Sample], faults: Faults) -> Iterator[Sample]:
    for index in range(len(samples)):
        try:
            yield samples[index]
        except ImageError as error:  # of a shard
            faults.add("unreadable sample", str(error), fatal=False)


def _check_shards(source: Shards, split: str) -> None:
    """Adds each shard's own faults, such as a wrong checksum, to those of the source."""
    faults = Faults(collect=True)
    with faults.catch_errors():
        shards = source.shards(split)
        counted = source.samples(split)
        expected = dict(zip((shard.name for shard in counted.shards), counted.counts, strict=True))
        if split == "train" and source.max_train_samples is not None:
            expected = {}  # the others are left out on purpose
        if 0 < len(shards) < source.num_workers and split == "train":
            message = f"{len(shards)} shards for data.num_workers={source.num_workers}: each worker reads all of them"
            faults.add("fewer shards than workers", message, fatal=False)
        for shard in shards:
            with faults.catch_errors():
                path = source.store.local_path(shard)
                if not path.exists():
                    continue  # the reader has reported that
                index = read_index(path)
                if (uncounted := len(index) - expected.get(shard.name, len(index))) > 0:
                    message = f"{path}: {len(index)} samples, of which its manifest or statistics count {expected[shard.name]}"
                    faults.add("sample beyond the count", message, fatal=split != "train", count=uncounted)
                for kind, count in index.faults.items():
                    examples = index.examples[kind]
                    fatal = split != "train"  # as for the reader of a run
                    for example in examples:
                        faults.add(kind, example, fatal=fatal)
                    faults.add(kind, examples[0], fatal=fatal, count=count - len(examples))
                if shard.sha256 is not None:
                    with path.open("rb") as stream:
                        if hashlib.file_digest(stream, "sha256").hexdigest() != shard.sha256:
                            raise DataError(
                                "shard changed", f"{path}: its bytes differ from those that the manifest describes"
                            )
    for key, issue in faults.issues.items():
        if key not in source.faults.issues and issue.count:  # else the reader has reported it
            source.faults.issues[key] = issue


def _check_images(
    samples: Sequence[Sample],
    split: SplitReport,
    image_checks: dict[str, ImageCheck],
    check: Callable[[Sequence[Any]], list[ImageCheck]],
    *,
    max_bad_fraction: float,
) -> None:
    """image_checks: results by image, to which those of new images are added, so that no image is checked twice."""
    images = {str(sample.image): sample.image for sample in samples if sample.has_image}
    new = {name: image for name, image in images.items() if name not in image_checks}
    image_checks.update(zip(new, check(list(new.values())), strict=True))
    results = [image_checks[name] for name in images]
    bad = [result for result in results if result.error is not None]
    faults = Faults(collect=True)
    for result in bad:
        fatal = len(bad) > max_bad_fraction * len(images)
        faults.add(fault_kind(result.reason or ""), printable(str(result.error)), fatal=fatal)
    split.findings += faults.issues.values()
    split.shapes = image_statistics(results)


def _texts(samples: Sequence[Sample]) -> Iterator[str]:
    """Captions and questions."""
    for sample in samples:
        yield from sample.captions
        if sample.question is not None:
            yield sample.question


def _check_texts(samples: Sequence[Sample], split: SplitReport, tokenizer: Any, *, evaluation: bool) -> None:
    faults = Faults(collect=True)
    for sample in samples:
        if evaluation and not sample.annotated:
            faults.add("image without a caption, a question or a class", str(sample.image), fatal=True)
        for text in _texts([sample]):
            for kind in text_faults(text):
                faults.add(kind, f"{sample.image}: {printable(text, 80)}", fatal=False)
    if tokenizer is not None and tokenizer.trained:
        split.lengths = measure_token_lengths(_texts(samples), tokenizer)
        for number, example in enumerate(split.lengths.examples):
            without_example = split.lengths.cut - len(split.lengths.examples)
            message = f"{example} (of {split.lengths.context} that fit)"
            count = 1 + without_example * (number == 0)
            faults.add("text longer than the context", message, fatal=False, count=count)
    split.findings += faults.issues.values()
