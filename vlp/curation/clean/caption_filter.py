"""Which captions of each sample to keep, and for what reason the others go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from vlp.curation.clean import caption_rules as form
from vlp.curation.clean.boilerplate import Boilerplate, find_boilerplate
from vlp.curation.clean.options import CleanOptions
from vlp.curation.clean.report import CleanReport
from vlp.structures import Sample


def clean_captions(samples: Sequence[Sample], options: CleanOptions, report: CleanReport) -> list[Sample]:
    """The samples that have a caption left, with those captions."""
    by_image: dict[str, list[str]] = {}
    for sample in samples:
        by_image.setdefault(str(sample.image), []).extend(sample.captions)
    boilerplate = find_boilerplate(
        by_image.values(), caption_share=options.caption_share, phrase_share=options.phrase_share
    )
    report.phrases |= {" ".join(p): count for found in boilerplate.phrases.values() for p, count in found.items()}
    seen: dict[str, set[str]] = {image: set() for image in by_image}
    left: list[Sample] = []
    for sample in samples:
        kept = []
        for index, caption in enumerate(sample.captions):
            words = " ".join(caption.split())
            if options.duplicate_captions and words in seen[str(sample.image)]:
                reason: str | None = "caption twice for one image"
            else:
                reason = caption_reason(caption, options, boilerplate)
            seen[str(sample.image)].add(words)
            if reason is None:
                kept.append(index)
            else:
                report.drop("caption", reason, f"{sample.image}: {caption}")
        if kept or sample.label is not None:  # which is learnt from without a caption
            left.append(sample if len(kept) == len(sample.captions) else with_captions(sample, kept))
    with_caption = {str(sample.image) for sample in left}
    for image in by_image:
        if image not in with_caption:
            report.drop("image", "no caption left", image)
    return left


def caption_reason(caption: str, options: CleanOptions, boilerplate: Boilerplate) -> str | None:
    """Why a caption goes: the first reason that applies."""
    count = len(form.words(caption))
    tests: dict[str, Callable[[], object]] = {
        "file name in the caption": lambda: options.file_names and form.has_file_name(caption),
        "address in the caption": lambda: options.addresses and form.has_address(caption),
        "caption too short": lambda: count < options.min_words,
        "caption too long": lambda: 0 < options.max_words < count,
        "few letters in the caption": lambda: form.letter_share(caption) < options.min_letters,
        "many digits in the caption": lambda: 0 < options.max_digits < form.digit_share(caption),
        "words repeated in the caption": lambda: 0 < options.max_repeated < form.repeated_share(caption),
        "one sign or word many times in a row": lambda: 0 < options.max_run < form.longest_run(caption),
        "caption all in capitals": lambda: options.capitals and form.is_shouting(caption),
        "caption of many images": lambda: boilerplate.caption(caption),
        "phrase of many images in the caption": lambda: boilerplate.phrase(caption),
    }
    return next((reason for reason, test in tests.items() if test()), None)


def with_captions(sample: Sample, kept: Sequence[int]) -> Sample:
    """The sample with only these of its captions, and what it tells of them."""
    places = {old: new for new, old in enumerate(kept)}
    return replace(
        sample,
        captions=tuple(sample.captions[index] for index in kept),
        also_true=tuple(sample.also_true[index] for index in kept) if sample.also_true else (),
        blanks=tuple(replace(b, caption=places[b.caption]) for b in sample.blanks if b.caption in places),
    )
