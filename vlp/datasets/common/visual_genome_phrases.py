"""What Visual Genome's annotations say of a part of a photo, in the words of all versions of its files.

    region        {"phrase": "dog on grass", "region_id", "x", "y", "width", "height"}      its phrase as it stands
    object        {"names": ["dog", "puppy"], "object_id", "x", "y", "w", "h"}              "dog", "puppy"
    attributes    an object with "attributes": ["black", "small"]                           "black dog", "small dog"
    relationship  {"subject": object, "predicate": "ON", "object": object}                  "dog on grass"

v1.0 calls every id "id", and names in attributes.json "object_names". A relationship's objects have one "name" or, in
some files, "names". Predicates are in capitals where they were made canonical (v1.2), so they are written small. Of
several names an object's first one is used, but for its own captions. A relationship's box is around both of its
objects. In v1.2 two of five entries of attributes.json have no attributes and say nothing. Synsets are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlp.data.annotation_files import is_id
from vlp.data.boxes import Corners, box_corners, enclosing_box
from vlp.data.issues import DataError

Annotation = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """number: the annotation's id.  box: None where the file has none; not yet cut at the edges of the photo."""

    texts: tuple[object, ...]
    number: int | None
    box: Corners | None


def region_phrases(record: Annotation) -> Phrases:
    return Phrases(
        texts=(record.get("phrase"),),
        number=annotation_number(record, "region_id", "id"),
        box=_box(record, "width", "height"),
    )


def object_phrases(record: Annotation) -> Phrases:
    return Phrases(texts=_object_names(record), number=annotation_number(record, "object_id", "id"), box=_box(record))


def attribute_phrases(record: Annotation) -> Phrases:
    attributes = record.get("attributes") or []
    if not isinstance(attributes, list) or not all(isinstance(attribute, str) for attribute in attributes):
        raise DataError("missing key", "attributes must be a list of texts")
    phrases = tuple(f"{attribute} {_object_names(record)[0]}" if attribute.strip() else "" for attribute in attributes)
    return Phrases(texts=phrases, number=annotation_number(record, "object_id", "id"), box=_box(record))


def relationship_phrases(record: Annotation) -> Phrases:
    subject, predicate, thing = record.get("subject"), record.get("predicate"), record.get("object")
    if not isinstance(subject, dict) or not isinstance(predicate, str) or not isinstance(thing, dict):
        raise DataError("missing key", "a relationship needs a subject, a predicate and an object")
    phrase = f"{_object_names(subject)[0]} {predicate.lower()} {_object_names(thing)[0]}" if predicate.strip() else ""
    boxes = [box for part in (subject, thing) if (box := _box(part)) is not None]
    return Phrases(
        texts=(phrase,),
        number=annotation_number(record, "relationship_id", "id"),
        box=enclosing_box(boxes) if len(boxes) == 2 else None,
    )


PHRASES: dict[str, Callable[[Annotation], Phrases]] = {
    "regions": region_phrases,
    "objects": object_phrases,
    "attributes": attribute_phrases,
    "relationships": relationship_phrases,
}


def annotation_number(record: Annotation, *keys: str) -> int | None:
    """The whole number under the first of the keys that is there: versions name them differently."""
    value = next((record[key] for key in keys if key in record), None)
    value = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value
    return value if is_id(value) else None


def _object_names(record: Annotation) -> tuple[str, ...]:
    names = next((record[key] for key in ("names", "object_names", "name") if key in record), None)
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError("missing key", "an object needs a name or a list of names")
    return tuple(names)


def _box(record: Annotation, width: str = "w", height: str = "h") -> Corners | None:
    keys = ("x", "y", width, height)
    return box_corners(*(record.get(key) for key in keys)) if any(key in record for key in keys) else None


def plain_answer(answer: str) -> str:
    """As VQA v2 writes answers: "On the  table." → "on the table"."""
    return " ".join(answer.split()).removesuffix(".").lower()
