"""transform.json of an artifact: a transform of evaluation as settings, by which Pillow and numpy give the same pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlp.data.padded_transforms import Letterbox
from vlp.data.transforms import EvalTransform
from vlp.deploy.runtime.manifest import TRANSFORM_NAME
from vlp.deploy.runtime.preprocess import PicturePreprocessing
from vlp.system.atomic import atomic_write_json
from vlp.system.errors import UserError


def to_spec(transform: Any, *, jpeg_multiple: int | None = None) -> PicturePreprocessing:
    """jpeg_multiple: see `PicturePreprocessing`; anything but None gives other pixels than the transform for large JPEGs.

    Raises UserError for a transform that settings cannot describe: one of several sizes (ViLT's), or a function."""
    if type(transform) not in (EvalTransform, Letterbox):  # a subclass may do something else
        name = getattr(transform, "__name__", type(transform).__name__) if transform is not None else "none"
        raise UserError(
            f"the image preprocessing of this checkpoint ({name}) cannot be written to an artifact: set predictor.transform to "
            "vlp.data.transforms.EvalTransform or vlp.data.padded_transforms.Letterbox"
        )
    return PicturePreprocessing(resizer=transform.resizer, jpeg_multiple=jpeg_multiple)


def write_transform(preprocessing: PicturePreprocessing, folder: Path) -> None:
    atomic_write_json(folder / TRANSFORM_NAME, preprocessing.spec())
