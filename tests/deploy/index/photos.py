"""Photos of the tests: one colour with structure of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

from tests.deploy.index.fake_engine import COLOURS

DATE_TIME_ORIGINAL, EXIF_IFD = 0x9003, 0x8769


def draw_photo(colour: str, seed: int = 0, side: int = 96) -> PIL.Image.Image:
    """A patchwork of 8×8 shades of a colour, another one for each seed."""
    draws = np.random.default_rng(seed)
    shades = np.array(COLOURS[colour]) * draws.uniform(0.35, 1.0, (8, 8, 1))
    image = PIL.Image.fromarray(shades.astype(np.uint8))
    return image.resize((side, side), PIL.Image.Resampling.BICUBIC)


def save_photo(path: Path, colour: str, seed: int = 0, *, taken: str | None = None, **options: object) -> Path:
    """taken: as EXIF writes it, 2024:05:01 12:30:00."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = PIL.Image.Exif()
    if taken:
        exif.get_ifd(EXIF_IFD)[DATE_TIME_ORIGINAL] = taken
    draw_photo(colour, seed).save(path, exif=exif, **options)
    return path
