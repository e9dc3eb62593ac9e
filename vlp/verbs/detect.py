"""`Predictor.detect`: boxes, and masks, of things in pixels of the photos as they were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlp.system.errors import UserError
from vlp.tasks.detection import Detection
from vlp.verbs.labels import asked_labels, check_threshold
from vlp.verbs.pictures import Picture, show_photos


def detect(
    predictor: Any,
    images: Sequence[Picture],
    labels: Sequence[str] | None = None,
    *,
    threshold: float | None = None,
) -> list[list[dict[str, Any]]]:
    """See `Predictor.detect`."""
    task = detection_task(predictor, labels)
    options = {} if threshold is None else {"threshold": threshold}
    check_threshold(threshold)
    results = []
    for pictures in predictor.batches(images, "images"):
        shown = show_photos(predictor, pictures, "boxes")
        tokens = predictor.model.encode_image(shown.image, levels=task.levels)
        found = task.find(predictor.model, tokens, shown.image, shown.frame, photo_sizes=shown.sizes, **options)
        results += [task.describe(things) for things in found]
    return results


def detection_task(predictor: Any, labels: Sequence[str] | None) -> Detection:
    """The checkpoint's own, asked for these labels.  Raises UserError where it has none, or cannot be asked for any."""
    if "detection" not in predictor.objectives:
        has = ", ".join(predictor.objectives) or "none"
        raise UserError(f"this checkpoint has no head for detection; its heads are: {has}")
    task: Any = predictor.objectives["detection"]
    texts = task.names == "texts"
    setting = "tasks.detection.names=texts"
    asked = asked_labels(labels, known=task.class_names, setting=setting, open_vocabulary=texts)
    task.prepare(predictor.model, predictor.require_tokenizer() if texts else None, asked)
    return task
