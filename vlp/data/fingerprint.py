"""The sha256 of samples: equal for equal data on every machine, so that a figure or a checkpoint names what it is of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from vlp.structures import Member, Sample


def relative_image_name(sample: Sample, root: Path) -> str:
    """The image's path relative to the root, or its name in the archive, which may lie in another folder on each machine."""
    image = sample.image
    return f"{image.name} {image.size}" if isinstance(image, Member) else os.path.relpath(str(image), str(root))


def samples_sha256(named_samples: Iterable[tuple[str, Sample]]) -> str:
    """sha256 of each image's name with its label, captions, question, answers and crop."""
    digest = hashlib.sha256()
    for name, sample in named_samples:
        question = () if sample.question is None else (sample.question, *sample.answers)
        crop = () if sample.crop is None else (str(sample.crop),)
        digest.update("\0".join([name, str(sample.label), *sample.captions, *question, *crop]).encode() + b"\n")
    return digest.hexdigest()
