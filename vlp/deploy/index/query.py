"""What is searched for: one vector made of texts, pictures and what they must not show, and the photos that may be found."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, datetime, timedelta
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float, Float32

from vlp.data.images import decode, open_photo, parse_photo
from vlp.data.inputs import upright
from vlp.deploy.index.engine_surface import EmbeddingEngine
from vlp.deploy.index.photo_files import crop_region
from vlp.deploy.index.tables import path_range
from vlp.system.errors import UserError

Region = tuple[float | int, float | int, float | int, float | int]
Picture = str | os.PathLike[str] | bytes | PIL.Image.Image
WITHOUT_WEIGHT = 0.5  # of what must not be seen, against 1 of what is searched for
_TERM = re.compile(r"(?:^|\s)([+\-−–])(?:\s*(?=\S)|$)")
_SIGN_ALONE = re.compile(r"[+\-−–](\s|$)")
_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """folder: only photos below it.  since, until: first and last day, month or year (2024, 2024-05, 2024-05-31) in which the
    photo was taken by its EXIF date; photos without one are left out then."""

    folder: str | None = None
    since: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            check_date(getattr(self, name), name)
        if self.since and self.until and self.since > self.until + "~":
            raise UserError(f"since={self.since} is after until={self.until}: no photo can be of both")

    @property
    def is_empty(self) -> bool:
        return not (self.folder or self.since or self.until)

    def condition(self) -> tuple[str, list[str]]:
        """For `where` of the table of photos, with its values."""
        parts, values = ["row is not null"], list[str]()
        if self.folder:
            parts.append("path >= ? and path < ?")
            values += path_range(os.path.abspath(self.folder))
        if self.since:
            parts.append("taken >= ?")
            values.append(self.since)
        if self.until:
            parts.append("taken < ?")
            values.append(self.until + "~")  # above every further character of a date
        return " and ".join(parts), values

    def period(self) -> tuple[datetime | None, datetime | None]:
        """The first moment of `since`, and the first one after `until`."""
        first, end = (None if text is None else _first_moment(text) for text in (self.since, self.until))
        if end is not None and self.until is not None and end.year == MAXYEAR:
            return first, None
        if end is not None and self.until is not None:
            parts = self.until.count("-")
            years, months = end.year + (parts == 0 or (parts == 1 and end.month == 12)), end.month % 12 + 1
            end = end + timedelta(days=1) if parts == 2 else datetime(years, months if parts else 1, 1)
        return first, end


def _first_moment(text: str) -> datetime:
    year, month, day = ([int(part) for part in text.split("-")] + [1, 1])[:3]
    return datetime(year, month, day)


def check_date(text: str | None, name: str) -> None:
    """Raises UserError unless it is None, a year, a month or a day."""
    if text is None:
        return
    mistake = UserError(f"{name}={text!r} is no date: write a year, month or day as 2024, 2024-05 or 2024-05-31")
    if _DATE.fullmatch(text) is None:
        raise mistake
    try:
        _first_moment(text)
    except ValueError as error:
        raise mistake from error


def split_signed(text: str) -> tuple[list[str], list[str]]:
    """ "+a beach +a dog −people" → what to search for, and what must not be seen. Only a text that begins with a sign has terms:
    any other is one caption, dashes included.  Raises UserError."""
    text = text.strip()
    if not text[:1] or text[0] not in "+-−–":
        return [text], []
    pieces = _TERM.split(text)[1:]
    wanted = [term.strip() for sign, term in zip(pieces[::2], pieces[1::2], strict=True) if sign == "+"]
    unwanted = [term.strip() for sign, term in zip(pieces[::2], pieces[1::2], strict=True) if sign != "+"]
    if any(not term or _SIGN_ALONE.match(term) for term in [*wanted, *unwanted]):
        raise UserError(f'{text!r}: a sign without words; write "+a beach -people"')
    return wanted, unwanted


def unit(vector: Float[np.ndarray, " e"]) -> Float32[np.ndarray, " e"]:
    """Raises UserError for a vector of no direction."""
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length < 1e-12:
        raise UserError("the query has no direction: what it asks for and what it excludes cancel out")
    return (vector / length).astype(np.float32)


def embed_query(
    engine: EmbeddingEngine,
    *,
    text: str | None = None,
    photo: Picture | Float[np.ndarray, " e"] | None = None,
    without: Sequence[str] = (),
    weight: float = 0.5,
    region: Region | None = None,
) -> Float32[np.ndarray, " e"]:
    """One unit vector.  photo: a picture, or an embedding.  weight: of the photo, where there is a text too; 1 − weight of
    the text.  without: texts of what must not be seen.  region: the part of the photo that counts, left, top, right and
    bottom from 0 to 1.  Raises UserError."""
    wanted, unwanted = split_signed(text) if text is not None else ([], [])
    unwanted = [*unwanted, *without]
    if text is not None and not text.strip():
        raise UserError("the text to search for is empty")
    if not wanted and photo is None:
        raise UserError(
            "say what to search for: a text or a photo" + (", not only what must be left out" if unwanted else "")
        )
    if not 0 <= weight <= 1:
        raise UserError(f"weight={weight:g}: expected a number from 0 (only the text) to 1 (only the photo)")
    if region is not None and (photo is None or isinstance(photo, np.ndarray)):
        raise UserError("a region belongs to a photo: give the picture as a file")
    texts = engine.embed_texts([*wanted, *unwanted]) if wanted or unwanted else np.zeros((0, 1), np.float32)
    parts = []
    if wanted:
        parts.append((1.0 if photo is None else 1 - weight) * unit(texts[: len(wanted)].mean(0)))
    if photo is not None:
        parts.append((weight if wanted else 1.0) * embed_picture(engine, photo, region))
    if unwanted:
        parts.append(-WITHOUT_WEIGHT * unit(texts[len(wanted) :].mean(0)))
    return unit(np.sum(parts, axis=0))


def embed_picture(engine: EmbeddingEngine, photo: Any, region: Region | None) -> Float32[np.ndarray, " e"]:
    if isinstance(photo, np.ndarray):
        return unit(photo.astype(np.float32))
    if region is not None:
        photo = crop_region(_open_upright(photo), region)
    return unit(engine.embed_images([photo])[0])


def _open_upright(photo: Picture) -> PIL.Image.Image:
    if isinstance(photo, PIL.Image.Image):
        return upright(photo)
    return decode(parse_photo(photo, "the picture") if isinstance(photo, bytes) else open_photo(photo))
