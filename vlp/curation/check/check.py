"""Everything that is wrong with data, with counts and examples, and not the first fault alone: `vlp data check`.

Readers collect what is wrong with the annotations (vlp/data/issues.py), every photo is decoded, every text measured against
the model's context, every shard summed; splits and data sets are compared for photos that they share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vlp.curation.check.image_checks import Look, kind, looks, presence, shapes
from vlp.curation.check.text_checks import Lengths, lengths, oddities
from vlp.curation.duplicates.overlap import OverlapReport, find_overlaps
from vlp.data.datamodule import SPLITS, DataModule
from vlp.data.images import ImageError
from vlp.data.issues import DataError, Faults, Finding
from vlp.data.packed_samples import PackedSamples, without_collection
from vlp.data.shards.index import read_index
from vlp.datasets.shards import Shards
from vlp.structures import Sample
from vlp.system.units import printable

SHOWN = 24  # samples of each split on the page


@dataclass
class SplitReport:
    """What a split holds and what is wrong with it."""

    samples: int = 0
    images: int = 0
    captions: int = 0
    questions: int = 0
    findings: list[Finding] = field(default_factory=list)
    lengths: Lengths | None = None
    shapes: dict[str, Any] = field(default_factory=dict)
    shown: list[Sample] = field(default_factory=list)


@dataclass
class CheckReport:
    """splits: by "<source>/<split>".  overlap: photos and captions that they share; None = not looked for."""

    splits: dict[str, SplitReport] = field(default_factory=dict)
    overlap: OverlapReport | None = None

    @property
    def fatal(self) -> int:
        """Faults that would end a run."""
        return sum(finding.count for split in self.splits.values() for finding in split.findings if finding.fatal)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        splits = {}
        for name, split in self.splits.items():
            told = asdict(split)
            told.pop("shown")
            splits[name] = told
        return {
            "splits": splits,
            "overlap": None if self.overlap is None else asdict(self.overlap),
            "fatal": self.fatal,
        }


def check(
    sources: Mapping[str, DataModule],
    tokenizer: Any = None,
    *,
    pixels: bool = True,
    overlaps: bool = True,
    others: Mapping[str, DataModule] | None = None,
    workers: int | None = None,
    progress: Callable[[str], None] = lambda told: None,
) -> CheckReport:
    """pixels: decode every photo.  overlaps: look for photos that splits share, which decodes them as well.  others: data sets
    that are only read and compared with.  The sources are changed: they collect faults from now on."""
    report = CheckReport()
    samples = {
        f"{name}/{split}": found
        for name, source in sources.items()
        for split, found in _read(name, source, report, progress)
    }
    seen: dict[str, Look] = {}
    if tokenizer is not None and not tokenizer.trained:
        tokenizer.train(text for name, found in samples.items() if name.endswith("/train") for text in _texts(found))
    for name, found in samples.items():
        progress(f"{name}: {len(found):,} samples")
        split = report.splits[name]
        evaluation = not name.endswith("/train")
        limit = 0.0 if evaluation else sources[name.rpartition("/")[0]].max_bad_fraction
        _check_photos(found, split, seen, limit=limit, workers=workers, pixels=pixels)
        _check_texts(found, split, tokenizer, evaluation=evaluation)
    if overlaps:
        progress("comparing photos")
        compared = dict(samples)
        for name, source in (others or {}).items():
            compared |= {f"{name}/{split}": found for split, found in _read(name, source, report, progress)}
        report.overlap = find_overlaps({name: found for name, found in compared.items() if found}, workers=workers)
    return report


def _read(
    name: str, source: DataModule, report: CheckReport, progress: Callable[[str], None]
) -> Iterator[tuple[str, PackedSamples]]:
    """The samples of each split that can be read at all."""
    for split in SPLITS:
        progress(f"reading {name}/{split}")
        source.faults = Faults(collect=True)
        found = PackedSamples([])
        with source.faults.each(), without_collection():
            found = PackedSamples(_readable(source.samples(split), source.faults))
        if isinstance(source, Shards):
            _check_shards(source, split)
        report.splits[f"{name}/{split}"] = SplitReport(
            samples=len(found),
            images=len({str(sample.image) for sample in found}),
            captions=sum(len(sample.captions) for sample in found),
            questions=sum(sample.question is not None for sample in found),
            findings=list(source.faults.findings.values()),
            shown=[found[n] for n in range(0, len(found), max(1, len(found) // SHOWN))][:SHOWN],
        )
        yield split, found


def _readable(samples: Sequence[Sample], faults: Faults) -> Iterator[Sample]:
    for number in range(len(samples)):
        try:
            yield samples[number]
        except ImageError as error:  # of a shard
            faults.add("unreadable sample", str(error), fatal=False)


def _check_shards(source: Shards, split: str) -> None:
    """Each shard's own faults, and its checksum."""
    own = Faults(collect=True)
    with own.each():
        shards = source.shards(split)
        if 0 < len(shards) < source.num_workers and split == "train":
            told = f"{len(shards)} shards for data.num_workers={source.num_workers}: each worker reads all of them"
            own.add("fewer shards than workers", told, fatal=False)
        for shard in shards:
            with own.each():
                path = source.store.local(shard)
                if not path.exists():
                    continue  # reading has told that
                index = read_index(path)
                for kind, count in index.faults.items():
                    examples = index.examples[kind]
                    for example in examples:
                        own.add(kind, example, fatal=False)
                    own.add(kind, examples[0], fatal=False, count=count - len(examples))
                if shard.sha256 is not None:
                    with path.open("rb") as stream:
                        if hashlib.file_digest(stream, "sha256").hexdigest() != shard.sha256:
                            raise DataError("shard changed", f"{path}: not the bytes that its manifest was written of")
    for key, finding in own.findings.items():
        if key not in source.faults.findings and finding.count:  # else reading has told it
            source.faults.findings[key] = finding


def _check_photos(
    samples: Sequence[Sample],
    split: SplitReport,
    seen: dict[str, Look],
    *,
    limit: float,
    workers: int | None,
    pixels: bool,
) -> None:
    images = {str(sample.image): sample.image for sample in samples}
    new = [image for image in images.values() if str(image) not in seen]
    seen.update(zip(map(str, new), looks(new, workers=workers) if pixels else presence(new), strict=True))
    found = [seen[name] for name in images]
    bad = [one for one in found if one.error is not None]
    faults = Faults(collect=True)
    for one in bad:
        faults.add(kind(one.reason or ""), printable(str(one.error)), fatal=len(bad) > limit * len(images))
    split.findings += faults.findings.values()
    split.shapes = shapes(found)


def _texts(samples: Sequence[Sample]) -> Iterator[str]:
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
            for oddity in oddities(text):
                faults.add(oddity, f"{sample.image}: {printable(text, 80)}", fatal=False)
    if tokenizer is not None and tokenizer.trained:
        split.lengths = lengths(_texts(samples), tokenizer)
        for number, example in enumerate(split.lengths.examples):
            rest = split.lengths.cut - len(split.lengths.examples)
            told = f"{example} (of {split.lengths.context} that fit)"
            faults.add("text longer than the context", told, fatal=False, count=1 + rest * (number == 0))
    split.findings += faults.findings.values()
