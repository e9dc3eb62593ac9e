"""Masks of things as COCO writes them, to arrays.

    polygons      [[x, y, x, y, ..], ..]                 a thing in several parts has several; filled as pycocotools fills them
    uncompressed  {"counts": [3, 2, ..], "size": [h, w]} lengths of runs down the columns, the first of zeros
    compressed    {"counts": "`0n5..", "size": [h, w]}   the same in ASCII

Only runs as numbers are read without pycocotools (`vlp[detect]`).
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
from jaxtyping import Bool

from vlp.data.issues import DataError
from vlp.system.errors import UserError


def decode_mask(mask: Any, *, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """height, width: of the photo, in pixels.  Raises DataError for a mask of another form or size, UserError where
    pycocotools is needed and missing."""
    if isinstance(mask, dict):
        return _decode_runs(mask, height, width)
    check_polygons(mask)
    tools = _pycocotools()
    runs = tools.merge(tools.frPyObjects([list(map(float, part)) for part in mask], height, width))
    return tools.decode(runs).astype(bool)


def check_polygons(mask: Any) -> None:
    """Raises DataError unless the mask is a list of polygons of three corners or more."""
    parts = mask if isinstance(mask, (list, tuple)) else ()
    good = bool(parts) and all(
        isinstance(part, (list, tuple))
        and len(part) >= 6
        and len(part) % 2 == 0
        and all(isinstance(edge, (int, float)) and math.isfinite(edge) for edge in part)
        for part in parts
    )
    if not good:
        message = f"a mask is neither polygons of three corners or more nor a run-length code: {str(mask)[:80]}"
        raise DataError("mask of an unknown form", message)


def check_mask(mask: Any, *, height: int | float, width: int | float) -> None:
    """What can be seen without decoding it.  Raises DataError."""
    if not isinstance(mask, dict):
        check_polygons(mask)
    elif list(mask.get("size") or ()) != [height, width]:
        message = f"a mask of size {mask.get('size')} of a photo of [{height:g}, {width:g}] pixels (height, width)"
        raise DataError("mask of another size", message)
    elif not isinstance(mask.get("counts"), (str, bytes, list, tuple)):
        raise DataError("mask of an unknown form", f"a run-length code without counts: {str(mask)[:80]}")


def _decode_runs(mask: dict[str, Any], height: int, width: int) -> Bool[np.ndarray, "h w"]:
    check_mask(mask, height=height, width=width)
    counts = mask["counts"]
    if isinstance(counts, (str, bytes)):
        encoded = counts.encode() if isinstance(counts, str) else counts
        try:
            return _pycocotools().decode({"size": [height, width], "counts": encoded}).astype(bool)
        except ValueError as error:
            message = f"a compressed run-length code cannot be decoded: {str(counts)[:40]} ({error})"
            raise DataError("mask cannot be decoded", message) from error
    runs = np.asarray(counts, dtype=np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        message = f"the runs of a mask have {int(runs.sum())} pixels, and its photo {height * width}"
        raise DataError("mask cannot be decoded", message)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width, order="F")


def _pycocotools() -> Any:
    try:
        return importlib.import_module("pycocotools.mask")
    except ImportError as error:
        message = "masks as polygons or compressed codes need pycocotools: run pip install 'vlp[detect]', or set data.masks=false"
        raise UserError(message) from error
