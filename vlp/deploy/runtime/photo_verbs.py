"""The verbs of photos alone: caption, detect, segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from vlp.deploy.runtime.classify import embed_names
from vlp.deploy.runtime.decoding import GraphDecoder
from vlp.deploy.runtime.detect import find_things
from vlp.deploy.runtime.equal_inputs import Results, pixel_keys
from vlp.deploy.runtime.generate import SearchRules, beam_search, greedy_search
from vlp.deploy.runtime.manifest import DetectionSection, SegmentationSection
from vlp.deploy.runtime.preprocess import LoadedPictures, Picture
from vlp.deploy.runtime.segment import class_logits, classes_on_photo
from vlp.verbs.labels import asked_labels, check_threshold

T = TypeVar("T")


def caption(engine: Any, images: Sequence[Picture]) -> list[str]:
    """See `Engine.caption`."""
    task, tokenizer = engine.manifest.captioning, engine.tokenizer
    own = tokenizer.rules
    prefix = np.array([own.start_id, *tokenizer.encode([task.prompt])[0]], dtype=np.int64)
    rules = SearchRules(
        end_id=own.end_id,
        pad_id=own.pad_id,
        max_length=task.max_length,
        min_length=task.min_length,
        repetition_penalty=task.repetition_penalty,
    )

    def write(pixels: np.ndarray) -> list[str]:
        decoder, prompt = GraphDecoder(engine.graphs, "caption", {"pixels": pixels}), np.tile(prefix, (len(pixels), 1))
        if task.beams == 1:
            ids = greedy_search(decoder, prompt, rules)
        else:
            ids = beam_search(decoder, prompt, rules, beams=task.beams, length_penalty=task.length_penalty)
        return [tokenizer.decode(row[len(prefix) :]) for row in ids.tolist()]

    return _each_photo(engine, images, lambda loaded: write(loaded.pixels))


def detect(
    engine: Any, images: Sequence[Picture], labels: Sequence[str] | None, threshold: float | None
) -> list[list[dict[str, Any]]]:
    """See `Engine.detect`."""
    task = engine.manifest.detection
    check_threshold(threshold)
    names, queries = _asked(engine, task, labels, "tasks.detection.names=texts")
    least = task.threshold if threshold is None else threshold

    def find(loaded: LoadedPictures) -> list[list[dict[str, Any]]]:
        outputs = engine.graphs.run("detect", {"pixels": loaded.pixels, **queries})
        shown = enumerate(zip(loaded.frames, loaded.sizes, strict=True))
        return [
            find_things(outputs, row, task, names=names, threshold=least, frame=frame, size=size)
            for row, (frame, size) in shown
        ]

    return [[dict(thing) for thing in things] for things in _each_photo(engine, images, find)]


def segment(engine: Any, images: Sequence[Picture], labels: Sequence[str] | None) -> list[dict[str, Any]]:
    """See `Engine.segment`."""
    task = engine.manifest.segmentation
    names, queries = _asked(engine, task, labels, "tasks.segmentation.names=texts")

    def predict(pixels: np.ndarray) -> np.ndarray:
        return engine.graphs.run("segment", {"pixels": pixels, **queries})["class_logits"]

    def read(loaded: LoadedPictures) -> list[np.ndarray]:
        logits = class_logits(predict, loaded.pixels, task)
        shown = zip(logits, loaded.frames, loaded.sizes, strict=True)
        return [classes_on_photo(maps, frame=frame, size=size) for maps, frame, size in shown]

    return [{"names": names, "classes": classes} for classes in _each_photo(engine, images, read)]


def _each_photo(engine: Any, images: Sequence[Picture], compute: Callable[[LoadedPictures], Sequence[T]]) -> list[T]:
    """compute: results of different photos."""
    results: Results[T] = Results()
    rows: list[T] = []
    for batch in engine.batches(images, "images"):
        loaded = engine.preprocessing.load(batch)
        shown = zip(pixel_keys(loaded.pixels), loaded.frames, loaded.sizes, strict=True)
        keys = [key + frame.tobytes() + repr(size).encode() for key, frame, size in shown]
        rows += results.get(keys, compute, loaded)
    return rows


def _asked(
    engine: Any, task: DetectionSection | SegmentationSection, labels: Sequence[str] | None, setting: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The names of the columns, and what the graph needs to score them."""
    texts = task.names == "texts"
    names = asked_labels(labels, known=task.class_names, setting=setting, open_vocabulary=texts).class_names
    return names, {"queries": embed_names(engine, names, task.templates)} if texts else {}
