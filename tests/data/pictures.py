"""Drawn pictures with the coarse structure of photos, and what happens to photos on the web."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageEnhance


def picture(seed: int, size: tuple[int, int] = (320, 240)) -> PIL.Image.Image:
    """Soft patches of colour with a few hard-edged shapes and some noise."""
    draws = np.random.default_rng(seed)
    patches = PIL.Image.fromarray(draws.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, 3)
    pen = PIL.ImageDraw.Draw(patches)
    for _ in range(6):
        x, y = draws.integers(0, size[0]), draws.integers(0, size[1])
        box = (x, y, x + draws.integers(10, size[0] // 2), y + draws.integers(10, size[1] // 2))
        pen.rectangle(tuple(map(int, box)), fill=tuple(map(int, draws.integers(0, 256, 3))))
    noise = draws.normal(0, 6, (size[1], size[0], 3))
    return PIL.Image.fromarray(np.clip(np.asarray(patches) + noise, 0, 255).astype(np.uint8))


def scaled(factor: float, squash: float = 1.0) -> Callable[[PIL.Image.Image], PIL.Image.Image]:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor * squash)))


def cropped(left: float, top: float, right: float, bottom: float) -> Callable[[PIL.Image.Image], PIL.Image.Image]:
    def crop(image: PIL.Image.Image) -> PIL.Image.Image:
        w, h = image.size
        return image.crop((round(left * w), round(top * h), round((1 - right) * w), round((1 - bottom) * h)))

    return crop


def brighter(factor: float) -> Callable[[PIL.Image.Image], PIL.Image.Image]:
    return lambda image: PIL.ImageEnhance.Brightness(image).enhance(factor)


def contrasted(factor: float) -> Callable[[PIL.Image.Image], PIL.Image.Image]:
    return lambda image: PIL.ImageEnhance.Contrast(image).enhance(factor)


def grey(image: PIL.Image.Image) -> PIL.Image.Image:
    return image.convert("L")


# how a copy of a photo is made: what is done to it, and the quality of the JPEG it ends as (0: a PNG)
ALTERATIONS: dict[str, tuple[Callable[[PIL.Image.Image], PIL.Image.Image], int]] = {
    "png": (lambda image: image, 0),
    "quality 95": (lambda image: image, 95),
    "quality 30": (lambda image: image, 30),
    "half size": (scaled(0.5), 85),
    "224 square": (lambda image: image.resize((224, 224)), 85),
    "squashed by 15 %": (scaled(0.8, squash=0.85), 85),
    "2 % off each side": (cropped(0.02, 0.02, 0.02, 0.02), 85),
    "5 % off each side": (cropped(0.05, 0.05, 0.05, 0.05), 85),
    "5 % off two sides": (cropped(0.05, 0.05, 0, 0), 85),
    "brighter": (brighter(1.25), 85),
    "darker": (brighter(0.75), 85),
    "more contrast": (contrasted(1.3), 85),
    "less contrast": (contrasted(0.7), 85),
    "grey": (grey, 85),
    "small, cropped, bad": (lambda image: scaled(0.4)(cropped(0.03, 0, 0.03, 0.02)(image)), 40),
}


def save_altered(image: PIL.Image.Image, alteration: str, path: Path) -> Path:
    """Written under `path` with the ending of its format."""
    change, quality = ALTERATIONS[alteration]
    path = path.with_suffix(".jpg" if quality else ".png")
    change(image).save(path, **({"quality": quality} if quality else {}))
    return path
