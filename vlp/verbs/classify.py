"""`Predictor.classify`: the probability of each label, by texts or by the checkpoint's own classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlp.structures import require_finite
from vlp.system.errors import UserError
from vlp.tasks.zero_shot import embed_classes
from vlp.verbs.pictures import Picture, require_list

CLASSIFIERS = ("classification", "probe")  # tasks whose heads name classes


def classify(
    predictor: Any, images: Sequence[Picture], labels: Sequence[str] | None, templates: Sequence[str] | None
) -> list[dict[str, float]]:
    """See `Predictor.classify`."""
    if labels is None:
        return _by_head(predictor, images, templates)
    prompts = tuple(("a photo of a {}.",) if templates is None else require_list(templates, "templates"))
    if wrong := [prompt for prompt in prompts if "{}" not in prompt]:
        raise UserError(f"templates: {wrong[0]!r} has no {{}} where the label goes")
    if len(set(require_list(labels, "labels"))) < len(labels):
        raise UserError(f"labels: {next(label for label in labels if list(labels).count(label) > 1)!r} comes twice")
    tokenizer = predictor.require_tokenizer()
    classes = embed_classes(predictor.model, tokenizer, tuple(labels), prompts, predictor.batch_size)
    similarity = predictor.model.similarity(predictor.embed_images(images), classes.to(predictor.device))
    logits = require_finite(similarity, "similarities")
    return [dict(zip(labels, row, strict=True)) for row in logits.softmax(-1).tolist()]


def _by_head(predictor: Any, images: Sequence[Picture], templates: Sequence[str] | None) -> list[dict[str, float]]:
    name = next((name for name in CLASSIFIERS if name in predictor.objectives), None)
    if name is None:
        raise UserError(
            f"labels: this checkpoint has no classifier of its own ({' or '.join(CLASSIFIERS)}): give labels"
        )
    if templates is not None:
        raise UserError(f"templates: {name} of this checkpoint is trained and reads no prompts: leave them out")
    head: Any = predictor.objectives[name]
    rows = [
        row
        for batch in predictor.batches(images, "images")
        for row in head.probabilities(predictor.model, predictor.load_pixels(batch)).tolist()
    ]
    return [dict(zip(head.class_names, row, strict=True)) for row in rows]
