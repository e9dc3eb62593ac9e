"""Splits share no image file: a figure on images that were trained on measures memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from vlp.data.issues import Faults, join_first_five


class ImagesOfSplits:
    """The image files of each split that was read, as hashes: 8 bytes for each image."""

    def __init__(self) -> None:
        self._hashes: dict[str, np.ndarray] = {}  # int64 [n]

    def add(self, split: str, images: Collection[str], *, name: str | None, faults: Faults) -> None:
        """Reports the images that another split has too: an error with train, a warning between val and test."""
        own = np.fromiter((hash(image) for image in images), dtype=np.int64, count=len(images))
        for other, known in self._hashes.items():
            if other == split:
                continue
            shared = np.isin(own, known)
            if not shared.any():
                continue
            both = [image for image, is_shared in zip(images, shared.tolist(), strict=True) if is_shared]
            report_shared("image", both, (other, split), name=name, faults=faults)
        self._hashes[split] = own


def report_shared(
    kind: str, names: Sequence[str], splits: tuple[str, str], *, name: str | None, faults: Faults
) -> None:
    """kind: "image" or "shard".  names: those that are in both splits; none = nothing to report.  name: of the data."""
    message = f"{name}: {len(names)} {kind}s are in {splits[0]} and in {splits[1]}: {join_first_five(names)}"
    if names and "train" in splits:
        faults.error(f"{kind} in two splits", f"{message}; give each split its own", count=len(names))
    elif names:
        note = "where val selects the checkpoint, the figures of test are not of unseen images"
        faults.warn(f"{kind} in val and test", f"{message}; {note}", count=len(names))
