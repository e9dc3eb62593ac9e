"""The sha256 of samples: equal for equal data on every machine, so that a figure or a checkpoint names what it is of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from vlp.structures import Member, Sample


def relative_image_name(sample: Sample, root: Path) -> str:
    """The image's path relative to the root, or its name in the archive, which may lie in another folder on each machine;
    empty for a sample without an image."""
    if not sample.has_image:
        return ""
    image = sample.image
    return f"{image.name} {image.size}" if isinstance(image, Member) else os.path.relpath(str(image), str(root))


def samples_sha256(named_samples: Iterable[tuple[str, Sample]]) -> str:
    """sha256 of each image's name with its label, captions, history, question, answers and crop, and of a question with rationales
    all that can be chosen, with what is marked."""
    digest = hashlib.sha256()
    for name, sample in named_samples:
        question = () if sample.question is None else (*sample.history, sample.question, *sample.answers)
        crop = () if sample.crop is None else (str(sample.crop),)
        reasons: tuple[str, ...] = ()
        if sample.rationales:
            reasons = (*sample.choices, *sample.rationales, str((sample.rationale_label, sample.marks, sample.tags)))
        texts = [name, str(sample.label), *sample.captions, *question, *crop, *reasons]
        digest.update("\0".join(texts).encode() + b"\n")
    return digest.hexdigest()
