"""`Predictor.segment`: a class for each pixel of the photos as they were given, and of panoptic heads the segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vlp.data.collate import pad_images
from vlp.structures import Segment
from vlp.system.errors import UserError
from vlp.verbs.labels import Labels
from vlp.verbs.pictures import Picture, open_picture, photo_frame

TASKS = ("segmentation", "panoptic")
NO_CLASS = 255


def segment(
    predictor: Any, images: Sequence[Picture], labels: Sequence[str] | None = None, *, task: str | None = None
) -> list[dict[str, Any]]:
    """See `Predictor.segment`."""
    head, names = segmentation_task(predictor, labels, task)
    results: list[dict[str, Any]] = []
    for pictures in predictor.batches(images, "images"):
        photos = [open_picture(picture) for picture in pictures]
        frames = [photo_frame(predictor.transform, photo) for photo in photos]
        if None in frames:
            raise UserError("classes of a photo's pixels need a predictor.transform of vlp.data.transforms")
        image = pad_images([predictor.transform(photo) for photo in photos]).to(predictor.device)
        frame = torch.tensor(frames, device=predictor.device)
        sizes = [(photo.height, photo.width) for photo in photos]
        if not hasattr(head, "readers"):
            maps = head.segment(predictor.model, image, frame, sizes)
            results += [{"names": names, "classes": each.cpu().numpy()} for each in maps]
            continue
        for read, size in zip(head.readers(predictor.model, image, frame), sizes, strict=True):
            ids, segments = read(photo_size=size)
            found = [{"id": one.id, "label": names[one.label]} for one in segments]
            results.append({"names": names, "classes": _classes(ids, segments), "ids": ids, "segments": found})
    return results


def _classes(ids: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    table = np.full(max((one.id for one in segments), default=0) + 1, NO_CLASS)
    for one in segments:
        table[one.id] = one.label
    return table[ids]


def segmentation_task(predictor: Any, labels: Sequence[str] | None, name: str | None) -> tuple[Any, tuple[str, ...]]:
    """The checkpoint's own task, ready for these labels, and the names of its classes.  Raises UserError where it has none, or
    cannot be asked for any."""
    present = [each for each in TASKS if each in predictor.objectives]
    if (name is not None and name not in present) or not present:
        has = ", ".join(predictor.objectives) or "none"
        raise UserError(f"this checkpoint has no head for {name or 'segmentation'}; its heads are: {has}")
    task: Any = predictor.objectives[name or present[0]]
    open_vocabulary = task.texts and (name or present[0]) == "segmentation"
    if labels is not None and not open_vocabulary:
        raise UserError(
            f"labels: this head knows {', '.join(task.segment_names[:20])} and no other names: train one with "
            "tasks.segmentation.names=texts, or give none"
        )
    if isinstance(labels, str) or (labels is not None and (not labels or len(set(labels)) < len(labels))):
        raise UserError("labels must be a list of at least one name, each once")
    names = tuple(labels or task.segment_names)
    task.prepare(predictor.model, predictor.require_tokenizer() if task.texts else None, Labels(names))
    return task, names
