"""What tests of data sets share: image files, and the sizes of splits."""

from __future__ import annotations

from pathlib import Path

import PIL.Image

from vlp.data.datamodule import DataModule


def sizes(data: DataModule) -> tuple[int, ...]:
    """Sizes of the splits, which share no image and no id."""
    splits = [list(data.split(split)) for split in ("train", "val", "test")]
    for what in ("id", "image"):
        values = [getattr(sample, what) for split in splits for sample in split]
        assert len(set(values)) == len(values), f"splits share an {what}"
    return tuple(map(len, splits))


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (4, 4)).save(folder / name)
