"""An engine of numpy with the surface of `vlp.deploy.runtime.engine.Engine`: exact, quick, with switches for what may go wrong."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image

from vlp.system.errors import UserError

SIZE, WIDTH = 8, 16
VERBS = (
    "embed_images", "embed_texts", "similarity", "classify", "match", "answer", "caption", "detect", "segment", "ground",
)  # fmt: skip


class FakeEngine:
    """An embedding is a function of the photo's mean colour, or of the text's letters.  seconds: of each call of a tower.
    broken: every call is a
    defect.  Texts with the word `nan` have no finite embedding; those with `refuse` are a UserError; `crash` a defect.
    batches: the size of every call of a tower."""

    def __init__(
        self, *, name: str = "a", verbs: Sequence[str] = VERBS, seconds: float = 0.0, broken: bool = False
    ) -> None:
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()
        self.verbs, self.width, self.seconds = tuple(verbs), WIDTH, seconds
        classifier = SimpleNamespace(names=("cat", "dog"))
        texts = SimpleNamespace(names="texts", class_names=("cat",))
        self.manifest = SimpleNamespace(
            family="fake", precision="float32", tokenizer=SimpleNamespace(pad_id=0), classifier=classifier,
            detection=texts, segmentation=texts, image_size=(SIZE, SIZE),
        )  # fmt: skip
        self.broken = broken
        self.batches: list[int] = []
        self.open = threading.Event()  # cleared: towers wait until it is set
        self.open.set()

    def load_pixels(self, pictures: Sequence[Any]) -> np.ndarray:
        return np.stack([self._pixels(picture) for picture in pictures])

    def _pixels(self, picture: Any) -> np.ndarray:
        if not isinstance(picture, PIL.Image.Image):
            picture = PIL.Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
        return np.asarray(picture.convert("RGB").resize((SIZE, SIZE))).transpose(2, 0, 1).copy()

    def tokenize(self, texts: Sequence[str], kind: str = "caption") -> tuple[np.ndarray, np.ndarray]:
        if any("refuse" in text for text in texts):
            raise UserError("a text has too many tokens: shorten it")
        rows = [[1, *(2 + byte for byte in text.encode()[:75]), 300] for text in texts]
        longest = max(map(len, rows))
        ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
        return ids, ids > 0

    def embed_tokens(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        self._work(len(ids))
        texts = [
            bytes(int(i) - 2 for i, real in zip(*row, strict=True) if real and 2 <= i < 258)
            for row in zip(ids, mask, strict=True)
        ]
        if any(b"crash" in text for text in texts):
            raise RuntimeError("a defect")
        vectors = np.stack([self._direction(hashlib.sha256(text).digest()) for text in texts])
        vectors[[b"nan" in text for text in texts]] = np.nan
        return vectors

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        self._work(len(pixels))
        return np.stack(
            [self._direction(picture.mean((1, 2)).round().astype(np.uint8).tobytes()) for picture in pixels]
        )

    def _work(self, count: int) -> None:
        if self.broken:
            raise RuntimeError("this model cannot be called")
        self.batches.append(count)
        assert self.open.wait(30)
        time.sleep(self.seconds)

    @staticmethod
    def _direction(seed: bytes) -> np.ndarray:
        values = np.random.default_rng(list(seed)).standard_normal(WIDTH).astype(np.float32)
        return values / np.linalg.norm(values)

    def embed_images(self, pictures: Sequence[Any]) -> np.ndarray:
        return self.embed_pixels(self.load_pixels(pictures))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.embed_tokens(*self.tokenize(texts))

    def classify(self, pictures: Sequence[Any], labels: Any = None, templates: Any = None) -> list[dict[str, float]]:
        names = labels or self.manifest.classifier.names
        logits = self.embed_images(pictures) @ self.embed_texts(list(names)).T
        return [dict(zip(names, (np.exp(row) / np.exp(row).sum()).tolist(), strict=True)) for row in logits]

    def match(self, pictures: Sequence[Any], texts: Sequence[str]) -> np.ndarray:
        return (1 + (self.embed_images(pictures) * self.embed_texts(texts)).sum(1)) / 2

    def answer(self, pictures: Sequence[Any], questions: Sequence[str], answers: Sequence[str] = ()) -> list[Any]:
        self.load_pixels(pictures)
        return [[(answer, 1 / (2 + row)) for row, answer in enumerate(answers or ("yes", "no"))] for _ in questions]

    def caption(self, pictures: Sequence[Any]) -> list[str]:
        return [f"a photo of {pixels.mean():.0f} grey" for pixels in self.load_pixels(pictures)]

    def detect(self, pictures: Sequence[Any], labels: Any = None, *, threshold: float | None = None) -> list[Any]:
        self.load_pixels(pictures)
        mask = np.zeros((30, 40), bool)
        mask[5:20, 10:30] = True
        things = [{"box": (10.0, 5.0, 30.0, 20.0), "label": (labels or ["cat"])[0], "score": 0.75, "mask": mask}]
        return [things if (threshold or 0) < 0.75 else [] for _ in pictures]

    def segment(self, pictures: Sequence[Any], labels: Any = None) -> list[Any]:
        self.load_pixels(pictures)
        classes = np.repeat(np.arange(2), 20)[None].repeat(30, 0)
        return [{"classes": classes, "names": labels or ["cat", "dog"]} for _ in pictures]

    def ground(self, pictures: Sequence[Any], phrases: Sequence[str], *, heat: bool = False) -> list[Any]:
        self.load_pixels(pictures)
        grid = np.linspace(0, 1, 12).reshape(3, 4)
        return [{"box": [10.0, 5.0, 30.0, 20.0], "score": 0.5, "heat": grid if heat else None} for _ in phrases]


def photo(color: Any = "red", size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", size, color).save(stream, kind)
    return stream.getvalue()
