"""`Predictor.detect`: boxes, and masks, of things in pixels of the photos as they were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vlp.data.collate import pad_images
from vlp.system.errors import UserError
from vlp.tasks.detection import Detection
from vlp.verbs.labels import Labels
from vlp.verbs.pictures import Picture, open_picture, photo_frame


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
    results = []
    for pictures in predictor.batches(images, "images"):
        photos = [open_picture(picture) for picture in pictures]
        frames = [photo_frame(predictor.transform, photo) for photo in photos]
        if None in frames:
            raise UserError("boxes in pixels of the photo need a predictor.transform of vlp.data.transforms")
        image = pad_images([predictor.transform(photo) for photo in photos]).to(predictor.device)
        tokens = predictor.model.encode_image(image, levels=task.levels)
        frame = torch.tensor(frames, device=predictor.device)
        sizes = [(photo.height, photo.width) for photo in photos]
        for things in task.find(predictor.model, tokens, image, frame, photo_sizes=sizes, **options):
            found = task.describe(things)
            masks = [None] * len(found) if things.masks is None else things.masks
            plain = [{key: thing[key] for key in ("box", "label", "score")} for thing in found]
            results.append(
                [thing if mask is None else thing | {"mask": mask} for thing, mask in zip(plain, masks, strict=True)]
            )
    return results


def detection_task(predictor: Any, labels: Sequence[str] | None) -> Detection:
    """The checkpoint's own, asked for these labels.  Raises UserError where it has none, or cannot be asked for any."""
    if "detection" not in predictor.objectives:
        has = ", ".join(predictor.objectives) or "none"
        raise UserError(f"this checkpoint has no head for detection; its heads are: {has}")
    task: Any = predictor.objectives["detection"]
    if labels is not None and task.names == "classes":
        raise UserError(
            f"labels: this detector knows {', '.join(task.class_names)} and no other names: train it with "
            "tasks.detection.names=texts, or give none"
        )
    if isinstance(labels, str) or (labels is not None and (not labels or len(set(labels)) < len(labels))):
        raise UserError("labels must be a list of at least one name, each once")
    tokenizer = predictor.require_tokenizer() if task.names == "texts" else None
    task.prepare(predictor.model, tokenizer, Labels(class_names=tuple(labels or task.class_names)))
    return task
