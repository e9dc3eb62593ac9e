"""The verbs of an artifact on drawn pictures against those of the predictor that it was exported from.

Graphs are compared one by one in `vlp.deploy.export.gate`; here all that lies between a picture and an answer is: preprocessing,
tokenizer, templates, temperature, the search for the best text, thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vlp.deploy.export.gate import EQUAL, GateError
from vlp.deploy.export.golden import draw_pictures

TEXTS = ("a red circle", "two blue squares below a heart")
PICTURES = 3
CLOSE = 1e-4  # of probabilities, logits and scores, as a share of the larger of 1 and the value
PIXELS = 0.05  # of the corners of a box
SAME_CLASS = 0.999  # share of the pixels


def compare_verbs(predictor: Any, engine: Any) -> None:
    """engine: an `Engine` of the artifact.  Raises GateError."""
    pictures, texts = draw_pictures(PICTURES), list(TEXTS)
    paired = (pictures[: len(texts)], texts)
    calls: dict[str, tuple[tuple[Any, ...], Callable[[Any, Any], bool]]] = {
        "embed_images": ((pictures,), lambda a, b: _near(a, b, EQUAL)),
        "embed_texts": ((texts,), lambda a, b: _near(a, b, EQUAL)),
        "similarity": ((pictures, texts), _near),
        "match": (paired, _near),
        "answer": (paired, _same_answers),
        "caption": ((pictures,), lambda a, b: a == b),
        "detect": ((pictures,), _same_things),
        "segment": ((pictures,), _same_classes),
    }
    if "classifier" in engine.graphs:
        calls["classify"] = ((pictures,), _same_probabilities)
    elif "classify" in engine.verbs:
        calls["classify"] = ((pictures, texts), _same_probabilities)
    for verb, (inputs, same) in calls.items():
        if verb not in engine.verbs or (verb == "answer" and not _has_answers(engine)):
            continue
        expected = getattr(predictor, verb)(*inputs)  # first: what it refuses is a setting of the checkpoint
        if not same(getattr(engine, verb)(*inputs), expected):
            raise GateError(f"the verb {verb} answers otherwise than the checkpoint for drawn pictures")


def _has_answers(engine: Any) -> bool:
    answers = engine.manifest.answers
    return answers is not None and (answers.kind == "generate" or bool(answers.names))


def _near(a: Any, b: Any, tolerance: float = CLOSE) -> bool:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return a.shape == b.shape and bool((np.abs(a - b) <= tolerance * np.maximum(1, np.abs(b))).all())


def _same_probabilities(a: list[Mapping[str, float]], b: list[Mapping[str, float]]) -> bool:
    return all(
        x.keys() == y.keys() and _near(list(x.values()), [y[name] for name in x]) for x, y in zip(a, b, strict=True)
    )


def _same_answers(a: list[list[tuple[str, float]]], b: list[list[tuple[str, float]]]) -> bool:
    """Answers of equal probability may change places."""
    return all(
        _near([value for _, value in x], [value for _, value in y])
        and all(
            name == other or _near(value, dict(y).get(name, np.inf))
            for (name, value), (other, _) in zip(x, y, strict=True)
        )
        for x, y in zip(a, b, strict=True)
    )


def _same_things(a: list[list[dict[str, Any]]], b: list[list[dict[str, Any]]]) -> bool:
    """Each thing of one has its like in the other; at the threshold there may be one more."""
    return all(_contained(x, y) and _contained(y, x) for x, y in zip(a, b, strict=True))


def _contained(things: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    lowest = min((thing["score"] for thing in (*things, *others)), default=0.0)
    return all(
        thing["score"] <= lowest + CLOSE
        or any(
            other["label"] == thing["label"]
            and _near(other["score"], thing["score"])
            and np.abs(np.subtract(other["box"], thing["box"])).max() <= PIXELS
            for other in others
        )
        for thing in things
    )


def _same_classes(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    return all(
        tuple(x["names"]) == tuple(y["names"])
        and x["classes"].shape == y["classes"].shape
        and (x["classes"] == y["classes"]).mean() >= SAME_CLASS
        for x, y in zip(a, b, strict=True)
    )
