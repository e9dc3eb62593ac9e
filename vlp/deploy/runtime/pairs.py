"""The verbs of an image and a text each: match, answer, ground."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vlp.deploy.runtime.answer import check_answers, classify_answers, rank_answers, write_answers
from vlp.deploy.runtime.decoding import GraphDecoder
from vlp.deploy.runtime.equal_inputs import Results, pixel_keys, require_finite, text_keys
from vlp.deploy.runtime.generate import log_softmax
from vlp.deploy.runtime.photo_maps import box_around_peak, to_photo
from vlp.deploy.runtime.preprocess import Picture


def _each_pair(
    engine: Any,
    images: Sequence[Picture],
    texts: Sequence[str],
    name: str,
    kind: str,
    compute: Callable[[np.ndarray, np.ndarray, np.ndarray], Iterable[Any]],
) -> list[Any]:
    """compute: results of different pairs, from pixels, ids and mask."""
    results: Results[Any] = Results()
    rows: list[Any] = []
    for pictures, words in engine.pair_batches(images, texts, name):
        pixels, (ids, mask) = engine.load_pixels(pictures), engine.tokenize(words, kind)
        keys = [image + text for image, text in zip(pixel_keys(pixels), text_keys(ids, mask), strict=True)]
        rows += results.get(keys, compute, pixels, ids, mask)
    return rows


def match(engine: Any, images: Sequence[Picture], texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    """See `Engine.match`."""

    def probabilities(pixels: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        feeds = {"pixels": pixels, "ids": ids, "mask": mask}
        logits = require_finite(engine.graphs.run("pair", feeds)["match_logits"], "logits of a match")
        return np.exp(log_softmax(logits))[:, 1]

    return np.array(_each_pair(engine, images, texts, "texts", "caption", probabilities), dtype=np.float32)


def answer(
    engine: Any, images: Sequence[Picture], questions: Sequence[str], answers: Sequence[str]
) -> list[list[tuple[str, float]]]:
    """See `Engine.answer`."""
    task = engine.manifest.answers
    names = check_answers(task, answers)
    candidates = engine.tokenize(names, "answer") if task.kind == "rank" else None

    def of_batch(pixels: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> list[list[tuple[str, float]]]:
        if task.kind == "classify":
            return classify_answers(engine.graphs, {"pixels": pixels, "ids": ids, "mask": mask}, names)
        asked = {"pixels": pixels, "question_ids": ids, "question_mask": mask}
        decoder = GraphDecoder(engine.graphs, "answer", asked)
        if candidates is None:
            return write_answers(decoder, engine.tokenizer, task, len(ids))
        return rank_answers(decoder, candidates, task, len(ids), names)

    return [list(best) for best in _each_pair(engine, images, questions, "questions", "question", of_batch)]


def ground(engine: Any, images: Sequence[Picture], phrases: Sequence[str], *, heat: bool) -> list[dict[str, Any]]:
    """See `Engine.ground`."""
    grid = engine.manifest.places.grid

    def embed_places(pixels: np.ndarray) -> np.ndarray:
        return engine.graphs.run("image_places", {"pixels": pixels})["place_embeds"]

    results: list[dict[str, Any]] = []
    known: Results[np.ndarray] = Results()
    for pictures, words in engine.pair_batches(images, phrases, "phrases"):
        loaded, texts = engine.preprocessing.load(pictures), engine.embed_texts(words)
        places = known.get(pixel_keys(loaded.pixels), embed_places, loaded.pixels)
        for place, text, frame in zip(places, texts, loaded.frames, strict=True):
            warmth = require_finite(place @ text, "maps of phrases").reshape(grid)
            box = to_photo(box_around_peak(warmth)[None], frame)[0]
            results.append({"box": box.tolist(), "score": None} | ({"heat": warmth} if heat else {}))
    if "match" in engine.verbs:
        scores = match(engine, images, phrases).tolist()
        results = [result | {"score": score} for result, score in zip(results, scores, strict=True)]
    return results
