"""Selects the captions of each sample to keep, with the reason for which each other one is dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from vlp.curation.clean import caption_rules
from vlp.curation.clean.boilerplate import Boilerplate, find_boilerplate
from vlp.curation.clean.options import CleanOptions
from vlp.curation.clean.report import CleanReport
from vlp.structures import Sample


def filter_captions(samples: Sequence[Sample], options: CleanOptions, report: CleanReport) -> list[Sample]:
    """The samples with their kept captions; those without a caption and a class are dropped."""
    by_image: dict[str, list[str]] = {}
    for sample in samples:
        by_image.setdefault(str(sample.image), []).extend(sample.captions)
    boilerplate = find_boilerplate(
        by_image.values(), caption_share=options.caption_share, phrase_share=options.phrase_share
    )
    report.phrases |= {
        " ".join(p): count for by_phrase in boilerplate.phrases.values() for p, count in by_phrase.items()
    }
    seen: dict[str, set[str]] = {image: set() for image in by_image}
    cleaned: list[Sample] = []
    for sample in samples:
        kept = []
        for index, caption in enumerate(sample.captions):
            normalized = " ".join(caption.split())
            if options.duplicate_captions and normalized in seen[str(sample.image)]:
                reason: str | None = "caption twice for one image"
            else:
                reason = drop_reason(caption, options, boilerplate)
            seen[str(sample.image)].add(normalized)
            if reason is None:
                kept.append(index)
            else:
                report.add_dropped("caption", reason, f"{sample.image}: {caption}")
        if kept or sample.label is not None:  # a class can be trained on without a caption
            cleaned.append(sample if len(kept) == len(sample.captions) else keep_captions(sample, kept))
    with_caption = {str(sample.image) for sample in cleaned}
    for image in by_image:
        if image not in with_caption:
            report.add_dropped("image", "no caption left", image)
    return cleaned


def drop_reason(caption: str, options: CleanOptions, boilerplate: Boilerplate) -> str | None:
    """The first reason that applies; None = the caption is kept."""
    count = len(caption_rules.split_words(caption))
    tests: dict[str, Callable[[], object]] = {
        "file name in the caption": lambda: options.file_names and caption_rules.has_file_name(caption),
        "address in the caption": lambda: options.addresses and caption_rules.has_address(caption),
        "caption too short": lambda: count < options.min_words,
        "caption too long": lambda: 0 < options.max_words < count,
        "few letters in the caption": lambda: caption_rules.letter_share(caption) < options.min_letters,
        "many digits in the caption": lambda: 0 < options.max_digits < caption_rules.digit_share(caption),
        "words repeated in the caption": lambda: 0 < options.max_repeated < caption_rules.repeated_share(caption),
        "one sign or word many times in a row": lambda: 0 < options.max_run < caption_rules.longest_run(caption),
        "caption all in capitals": lambda: options.capitals and caption_rules.is_all_capitals(caption),
        "caption of many images": lambda: boilerplate.is_common_caption(caption),
        "phrase of many images in the caption": lambda: boilerplate.find_phrase(caption),
    }
    return next((reason for reason, test in tests.items() if test()), None)


def keep_captions(sample: Sample, kept: Sequence[int]) -> Sample:
    """The sample with only these captions, and with the other fields that refer to them."""
    new_indices = {old: new for new, old in enumerate(kept)}
    return replace(
        sample,
        captions=tuple(sample.captions[index] for index in kept),
        also_true=tuple(sample.also_true[index] for index in kept) if sample.also_true else (),
        blanks=tuple(replace(b, caption=new_indices[b.caption]) for b in sample.blanks if b.caption in new_indices),
    )
