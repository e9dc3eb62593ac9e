"""`Predictor.segment`: a class for each pixel of the photos as they were given, and of panoptic heads the segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlp.data.pixel_labels import classes_of_segments
from vlp.system.errors import UserError
from vlp.verbs.labels import asked_labels
from vlp.verbs.pictures import Picture, show_photos

TASKS = ("segmentation", "panoptic")


def segment(
    predictor: Any, images: Sequence[Picture], labels: Sequence[str] | None = None, *, task: str | None = None
) -> list[dict[str, Any]]:
    """See `Predictor.segment`."""
    head, names = segmentation_task(predictor, labels, task)
    results: list[dict[str, Any]] = []
    for pictures in predictor.batches(images, "images"):
        shown = show_photos(predictor, pictures, "classes")
        if not hasattr(head, "readers"):
            maps = head.segment(predictor.model, shown.image, shown.frame, shown.sizes)
            results += [{"names": names, "classes": each.cpu().numpy()} for each in maps]
            continue
        for read, size in zip(head.readers(predictor.model, shown.image, shown.frame), shown.sizes, strict=True):
            ids, segments = read(photo_size=size)
            found = [{"id": one.id, "label": names[one.label]} for one in segments]
            results.append(
                {"names": names, "classes": classes_of_segments(ids, segments), "ids": ids, "segments": found}
            )
    return results


def segmentation_task(predictor: Any, labels: Sequence[str] | None, name: str | None) -> tuple[Any, tuple[str, ...]]:
    """The checkpoint's own task, ready for these labels, and the names of its classes.  Raises UserError where it has none, or
    cannot be asked for any."""
    present = [each for each in TASKS if each in predictor.objectives]
    if (name is not None and name not in present) or not present:
        has = ", ".join(predictor.objectives) or "none"
        raise UserError(f"this checkpoint has no head for {name or 'segmentation'}; its heads are: {has}")
    name = name or present[0]
    task: Any = predictor.objectives[name]
    asked = asked_labels(
        labels,
        known=task.segment_names,
        setting="tasks.segmentation.names=texts",
        open_vocabulary=task.texts and name == "segmentation",
    )
    task.prepare(predictor.model, predictor.require_tokenizer() if task.texts else None, asked)
    return task, asked.segment_names
