"""Predicted label maps as files, in the form of the data set that they are a result on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import Int
from torch import Tensor

from vlp.structures import Member
from vlp.system.errors import UserError


class ResultFolder:
    """A folder with a PNG for each photo, of its name, as benchmarks expect them.  option: that names it, for messages."""

    def __init__(self, folder: Path, *, option: str = "results_folder") -> None:
        self.folder, self.option = folder, option
        self._photo_of: dict[str, str] = {}

    def path(self, photo: Path | Member) -> Path:
        """Of a photo's PNG.  Raises UserError for photos of two folders that have one name, of which only one could be kept."""
        name = f"{Path(photo.name).stem}.png"
        first = self._photo_of.setdefault(name, str(photo))
        if first != str(photo):
            raise UserError(f"{self.option}: {first} and {photo} would both be {name}: rename one, or do without it")
        return self.folder / name


def write_label_map(path: Path, classes: Int[Tensor, "h w"], values: Sequence[int]) -> None:
    """A grey PNG.  values: of each class in the data set's own label maps, up to 255."""
    pixels = np.asarray(values, dtype=np.uint8)[classes.cpu().numpy()]
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
