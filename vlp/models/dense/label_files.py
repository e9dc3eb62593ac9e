"""Predicted label maps as files, in the form of the data set that they are a result on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import Int
from torch import Tensor

from vlp.structures import Member


def write_label_map(folder: Path, photo: Path | Member, classes: Int[Tensor, "h w"], values: Sequence[int]) -> Path:
    """A grey PNG of the photo's name.  values: of each class in the data set's own label maps, up to 255."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{Path(photo.name).stem}.png"
    pixels = np.asarray(values, dtype=np.uint8)[classes.cpu().numpy()]
    PIL.Image.fromarray(pixels).save(path)
    return path
