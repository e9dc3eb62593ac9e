"""`Predictor.classify`: the probability of each label, by texts or by the checkpoint's own classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlp.structures import require_finite
from vlp.system.errors import UserError
from vlp.tasks.zero_shot import embed_classes
from vlp.verbs.labels import check_prompts
from vlp.verbs.pictures import Picture

CLASSIFIERS = ("classification", "probe", "prompts")  # tasks whose heads name classes


def classify(
    predictor: Any, images: Sequence[Picture], labels: Sequence[str] | None, templates: Sequence[str] | None
) -> list[dict[str, float]]:
    """See `Predictor.classify`."""
    if labels is None:
        return _by_head(predictor, images, templates)
    names, prompts = check_prompts(labels, templates)
    tokenizer = predictor.require_tokenizer()
    classes = embed_classes(predictor.model, tokenizer, names, prompts, predictor.batch_size)
    similarity = predictor.model.similarity(predictor.embed_images(images), classes.to(predictor.device))
    logits = require_finite(similarity, "similarities")
    return [dict(zip(names, row, strict=True)) for row in logits.softmax(-1).tolist()]


def _by_head(predictor: Any, images: Sequence[Picture], templates: Sequence[str] | None) -> list[dict[str, float]]:
    name = next((name for name in CLASSIFIERS if name in predictor.objectives), None)
    if name is None:
        raise UserError(f"labels: this checkpoint has no classifier of its own ({', '.join(CLASSIFIERS)}): give labels")
    if templates is not None:
        raise UserError(f"templates: {name} of this checkpoint is trained and reads no prompts: leave them out")
    head: Any = predictor.objectives[name]
    rows = [
        row
        for batch in predictor.batches(images, "images")
        for row in head.probabilities(predictor.model, predictor.load_pixels(batch)).tolist()
    ]
    return [dict(zip(head.class_names, row, strict=True)) for row in rows]
