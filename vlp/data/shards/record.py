"""A sample from and to the json of a shard, which is written by `vlp data pack`, with a Sample's fields, or by img2dataset."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from vlp.data.annotation_files import is_id
from vlp.data.answers import answer_text
from vlp.data.image_ids import OTHER_BASE, hash_61_bits
from vlp.data.images import ImageError
from vlp.structures import Blank, Member, Sample, Tag
from vlp.system.errors import UserError

VLP_KEY = "vlp"  # the key of records that vlp wrote, whose ids are kept: "id": 7 of another tool is not COCO's photo 7
SAMPLE_FIELDS = (
    "id", "sample", "captions", "question", "answers", "answer_weight", "question_type", "answer_type", "label",
    "choices", "history", "relevance", "categories", "also_true", "boxes", "box_labels",
    "box_captions", "box_crowds", "box_masks", "absent_categories", "not_exhaustive", "as_stored",
    "rationales", "rationale_label", "tags", "marks", "mark_colours",
)  # fmt: skip
KEPT_WHEN_EMPTY = {"boxes", "absent_categories"}  # an empty tuple means that there is none, None means unknown


def sample_to_json(sample: Sample) -> str:
    record: dict[str, Any] = {VLP_KEY: 1}
    for name in SAMPLE_FIELDS:
        value = getattr(sample, name)
        if value is not None and value is not False and (value != () or name in KEPT_WHEN_EMPTY):
            record[name] = value
    if sample.blanks:
        record["blanks"] = [dataclasses.asdict(blank) for blank in sample.blanks]
    return json.dumps(record, ensure_ascii=False)


def sample_from_record(record: Any, *, image: Member, number: int) -> Sample:
    """Raises ImageError if the record is invalid or has no caption, question or class.

    The id of another tool's record is a hash of the photo's address, or of its path in the shard.  number: its `sample`.
    """
    try:
        sample = _parse_sample(record, image=image, number=number)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise ImageError(f"{image}: its json is no valid sample ({type(error).__name__}, {error})") from error
    if not sample.annotated:
        raise ImageError(f"{image}: has no caption, no question and no class")
    return sample


def _parse_sample(record: Any, *, image: Member, number: int) -> Sample:
    written_by_vlp = record.get(VLP_KEY) == 1
    captions = record.get("captions") or record.get("caption") or []
    texts = _require_texts([captions] if isinstance(captions, str) else captions)
    address = str(record.get("url") or record.get("sha256") or f"{image.archive.name}/{image.name}")
    if not written_by_vlp:  # other columns may have the names of our fields and another meaning
        checked_fields = {key: record.get(key) for key in ("question", "choices", "answers")}
        digits = str(record.get("label")).removeprefix("-")
        record = checked_fields | ({"label": record["label"]} if digits.isdecimal() and len(digits) < 19 else {})
    boxes, absent = record.get("boxes"), record.get("absent_categories")
    return Sample(
        id=_require_image_id(record["id"]) if written_by_vlp else OTHER_BASE + hash_61_bits(address),
        sample=_require_id(record["sample"]) if written_by_vlp else number,
        image=image,
        captions=tuple(words for text in texts if (words := " ".join(text.split()))),
        question=None if record.get("question") is None else _require_text(record["question"]),
        history=_require_texts(record.get("history") or []),
        choices=_require_texts(record.get("choices") or []),
        relevance=tuple(map(float, record.get("relevance") or ())),
        answers=_parse_answers(record.get("answers") or []),
        answer_weight=float(record.get("answer_weight", 1.0)),
        question_type=None if record.get("question_type") is None else _require_text(record["question_type"]),
        answer_type=None if record.get("answer_type") is None else _require_text(record["answer_type"]),
        label=_parse_label(record.get("label")),
        rationales=_require_texts(record.get("rationales") or []),
        rationale_label=_parse_label(record.get("rationale_label")),
        tags=tuple(map(_parse_tag, record.get("tags") or ())),
        marks=tuple(map(_require_id, record.get("marks") or ())),
        mark_colours=tuple(map(_parse_colour, record.get("mark_colours") or ())),
        categories=tuple(map(_require_id, record.get("categories") or ())),
        also_true=tuple(tuple(map(_require_id, ids)) for ids in record.get("also_true") or ()),
        boxes=None if boxes is None else tuple(_parse_box(box) for box in boxes),
        box_labels=tuple(map(_require_id, record.get("box_labels") or ())),
        box_captions=tuple(map(_require_id, record.get("box_captions") or ())),
        box_crowds=tuple(map(bool, record.get("box_crowds") or ())),
        box_masks=tuple(record.get("box_masks") or ()),
        absent_categories=None if absent is None else tuple(map(_require_id, absent)),
        not_exhaustive=tuple(map(_require_id, record.get("not_exhaustive") or ())),
        as_stored=record.get("as_stored") is True,
        blanks=tuple(Blank(**{**blank, "words": tuple(blank["words"])}) for blank in record.get("blanks") or ()),
    )


def _require_id(value: object) -> int:
    if not is_id(value):
        raise UserError(f"{str(value)[:40]} is no integer from 0 on")
    return value


def _require_image_id(value: object) -> int:
    """Also one of `OTHER_BASE` and a hash, which no annotation file may have."""
    if isinstance(value, int) and not isinstance(value, bool) and OTHER_BASE <= value < 1 << 63:
        return value
    return _require_id(value)


def _require_text(value: object) -> str:
    if not isinstance(value, str):
        raise UserError(f"{str(value)[:40]} is no text")
    return value


def _require_texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise UserError(f"{str(values)[:40]} is no list of texts")
    return tuple(map(_require_text, values))


def _parse_answers(values: Any) -> tuple[str, ...]:
    """Texts; other tools also write numbers."""
    if not isinstance(values, list):
        raise UserError(f"{str(values)[:40]} is no list of texts")
    return tuple(_require_text(value if (text := answer_text(value)) is None else text) for value in values)


def _parse_label(label: Any) -> int | None:
    return None if label is None or int(label) == -1 else _require_id(int(label))


def _parse_tag(tag: Any) -> Tag:
    text, start, end, boxes = tag
    return Tag(_require_id(text), _require_id(start), _require_id(end), tuple(map(_require_id, boxes)))


def _parse_colour(colour: Any) -> tuple[int, int, int]:
    red, green, blue = map(_require_id, colour)
    return red, green, blue


def _parse_box(box: Any) -> tuple[float, ...]:
    left, top, right, bottom = map(float, box)
    return left, top, right, bottom
