"""XML of annotations as PASCAL VOC and Flickr30k Entities write it."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from vlp.data.annotation_files import read_text
from vlp.data.boxes import NOT_NUMBERS, Corners, Size, box_corners
from vlp.data.issues import DataError

MAX_BYTES = 16 << 20  # of one photo's annotations


def read_xml(path: Path, *, description: str) -> ElementTree.Element:
    """Raises DataError for what is no XML, or declares entities, which may unfold to any size."""
    text = read_text(path, description=description, max_bytes=MAX_BYTES)
    if "<!" in text.replace("<!--", ""):
        raise DataError("not valid XML", f"{path}: XML with declarations is not read")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError("not valid XML", f"{path}: not valid XML ({error})") from error


def text_of(element: ElementTree.Element, name: str) -> str:
    """Of a child, with single spaces; "" without one."""
    return " ".join((element.findtext(name) or "").split())


def number_of(element: ElementTree.Element, name: str) -> float:
    """NaN for what is no number."""
    try:
        return float(text_of(element, name))
    except ValueError:
        return math.nan


def photo_size_of(annotation: ElementTree.Element, *, location: object) -> Size:
    """Width and height of its `size`.  Raises DataError."""
    size = annotation.find("size")
    width, height = (math.nan, math.nan) if size is None else (number_of(size, "width"), number_of(size, "height"))
    if not (0 < width < 1e9 and 0 < height < 1e9):
        raise DataError("missing key", f"{location} lacks the photo's size, width and height")
    return width, height


def corners_of(box: ElementTree.Element | None) -> Corners:
    """Of a `bndbox`, whose pixels are counted from 1 and include the last.  Raises DataError as `box_corners` does."""
    if box is None:
        raise DataError(NOT_NUMBERS, f"{NOT_NUMBERS}: there is no bndbox")
    left, top, right, bottom = (number_of(box, name) for name in ("xmin", "ymin", "xmax", "ymax"))
    return box_corners(left - 1, top - 1, right - left + 1, bottom - top + 1)
