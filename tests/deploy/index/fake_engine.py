"""An engine of numpy: a picture's embedding is its mean colours in a grid, a text's the colours that it names."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 40),
    "grey": (128, 128, 128),
}
GRID = 3
SIDE = 48


class FakeEngine:
    """width: at least 27; further dimensions are 0.  seconds: that a batch takes."""

    def __init__(self, *, fingerprint: str = "f" * 64, width: int = 32, seconds: float = 0.0) -> None:
        self.fingerprint, self.width, self.seconds = fingerprint, width, seconds
        self.embedded = 0

    def load_pixels(self, pictures: Sequence[Any]) -> UInt8[np.ndarray, "b 3 h w"]:
        loaded = []
        for picture in pictures:
            image = picture if isinstance(picture, PIL.Image.Image) else PIL.Image.open(
                io.BytesIO(picture) if isinstance(picture, bytes) else picture
            )  # fmt: skip
            loaded.append(np.asarray(image.convert("RGB").resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR)))
        return np.stack(loaded).transpose(0, 3, 1, 2)

    def embed_pixels(self, pixels: UInt8[np.ndarray, "b 3 h w"]) -> Float[np.ndarray, "b e"]:
        time.sleep(self.seconds)
        self.embedded += len(pixels)
        cells = pixels.reshape(len(pixels), 3, GRID, SIDE // GRID, GRID, SIDE // GRID).mean((3, 5))
        return self._unit((cells - 110.0).reshape(len(pixels), -1))

    def embed_images(self, pictures: Sequence[Any]) -> Float[np.ndarray, "b e"]:
        return self.embed_pixels(self.load_pixels(pictures))

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "b e"]:
        colours = [
            np.mean([COLOURS[word] for word in text.split() if word in COLOURS] or [(111, 110, 110)], 0)
            for text in texts
        ]
        return self._unit(np.repeat(np.array(colours) - 110.0, GRID * GRID, axis=1))

    def _unit(self, values: np.ndarray) -> np.ndarray:
        values = np.pad(values, ((0, 0), (0, int(self.width) - values.shape[1])))
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
