"""An engine with the queues in front of it, and the index that was made with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, Int64, UInt8

from vlp.deploy.serving.batcher import Batcher
from vlp.deploy.serving.limits import ServingLimits
from vlp.deploy.serving.metrics import ServingMetrics

TextRow = tuple[Int64[np.ndarray, " t"], Bool[np.ndarray, " t"]]


class ServedModel:
    """images, texts: batches for the two towers.  verbs, search, thumbnails: calls.  users: requests that it answers now.

    engine: see `vlp.deploy.runtime.engine.Engine`.  index: see `vlp.deploy.index.photo_index.Index`; None = no photos to search."""

    def __init__(self, engine: Any, index: Any = None, *, limits: ServingLimits, metrics: ServingMetrics) -> None:
        self.engine, self.index = engine, index
        self.users = 0
        rules = engine.manifest.tokenizer
        self._pad_id = 0 if rules is None else rules.pad_id

        def batcher(kind: str, function: Callable[[list[Any]], Any], most: int, threads: int = 1) -> Batcher[Any, Any]:
            observe = metrics.batch_observer(kind)
            return Batcher(kind, function, most=most, queue=limits.queue, threads=threads, observe=observe)

        self.images = batcher("images", self._embed_pixels, limits.batch)
        self.texts = batcher("texts", self._embed_tokens, limits.batch)
        self.verbs = batcher("verbs", _call_each, 1)
        self.search = batcher("search", _call_each, 1)
        self.thumbnails = batcher("thumbnails", _call_each, 1, limits.decode_threads)

    @property
    def verbs_offered(self) -> tuple[str, ...]:
        return tuple(self.engine.verbs)

    def tokenize(self, texts: Sequence[str]) -> list[TextRow]:
        """Rows without padding.  Raises UserError for a text that the tokenizer refuses."""
        ids, mask = self.engine.tokenize(list(texts))
        return [_without_padding(*row) for row in zip(ids, mask, strict=True)]

    def warm_up(self) -> None:
        """The first calls of each graph, which plan and allocate, with one item and with several. In seconds, not on the way of a
        request."""
        grey = PIL.Image.new("RGB", (64, 64), (128, 128, 128))
        if "embed_images" in self.verbs_offered:
            pixels = self.engine.load_pixels([grey])
            for count in (1, 2):
                self.engine.embed_pixels(np.repeat(pixels, count, 0))
        if "embed_texts" in self.verbs_offered:
            for count in (1, 2):
                self.engine.embed_texts(["a photo"] * count)

    def close(self) -> None:
        for batcher in (self.images, self.texts, self.verbs, self.search, self.thumbnails):
            batcher.close()
        if self.index is not None:
            self.index.close()

    def _embed_pixels(self, items: list[UInt8[np.ndarray, "1 3 h w"]]) -> Float[np.ndarray, "b e"]:
        return _checked(self.engine.embed_pixels(np.concatenate(items)))

    def _embed_tokens(self, items: list[TextRow]) -> Float[np.ndarray, "b e"]:
        longest = max(len(ids) for ids, _ in items)
        ids = np.full((len(items), longest), self._pad_id, np.int64)
        mask = np.zeros((len(items), longest), bool)
        for row, (row_ids, row_mask) in enumerate(items):
            ids[row, : len(row_ids)], mask[row, : len(row_mask)] = row_ids, row_mask
        return _checked(self.engine.embed_tokens(ids, mask))


def _call_each(calls: list[Callable[[], Any]]) -> list[Any]:
    return [call() for call in calls]


def _checked(embeds: Float[np.ndarray, "b e"]) -> Float[np.ndarray, "b e"]:
    """JSON has no NaN, and a client could not use one."""
    if not np.isfinite(embeds).all():
        raise ArithmeticError("the model gave an embedding that is not finite")
    return embeds


def _without_padding(ids: Int64[np.ndarray, " padded"], mask: Bool[np.ndarray, " padded"]) -> TextRow:
    length = int(np.flatnonzero(mask)[-1]) + 1 if mask.any() else len(mask)
    return ids[:length], mask[:length]
