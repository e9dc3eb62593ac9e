"""Whether photos have the sizes that their annotations say: else all boxes are at wrong places, which no run can see."""

from __future__ import annotations

from pathlib import Path

from vlp.data.boxes import Size
from vlp.data.images import ImageError, image_size
from vlp.data.issues import Faults
from vlp.structures import Member


def report_other_size(image: Path | Member, size: Size | None, *, faults: Faults) -> None:
    """Warns of a photo, as stored, of another size than `size`, where faults are collected (`vlp data check`): a run does not
    open every photo for it. Photos that cannot be read are reported by the check itself."""
    if not faults.collect or size is None:
        return
    try:
        width, height = image_size(image)
    except ImageError:
        return
    if (width, height) != size:
        message = f"{image}: {width} × {height} pixels, where its annotations say {size[0]:g} × {size[1]:g}: boxes lie elsewhere"
        faults.warn("photo of another size", message)
