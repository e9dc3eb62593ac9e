"""A sample as the json of a shard tells it: written by `vlp data pack` with a Sample's own fields, or img2dataset's."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from vlp.data.annotation_files import is_id
from vlp.data.image_ids import OTHER, hashed
from vlp.data.images import ImageError
from vlp.structures import Blank, Member, Sample
from vlp.system.errors import UserError

MARK = "vlp"  # a key of our own records, whose ids are trusted: a foreign "id": 7 is not COCO's photo 7
FIELDS = (
    "id", "sample", "captions", "question", "answers", "answer_weight", "question_type", "answer_type", "label",
    "choices", "categories", "also_true", "boxes", "box_labels",
)  # fmt: skip
EMPTY = {"boxes"}  # none of them is something else than not knowing


def record_of(sample: Sample) -> str:
    told: dict[str, Any] = {MARK: 1}
    for name in FIELDS:
        value = getattr(sample, name)
        if value is not None and (value != () or name in EMPTY):
            told[name] = value
    if sample.blanks:
        told["blanks"] = [dataclasses.asdict(blank) for blank in sample.blanks]
    return json.dumps(told, ensure_ascii=False)


def sample_of(told: Any, *, image: Member, number: int) -> Sample:
    """Raises ImageError for what is no such record.

    Where no id of ours is told, it is made of the photo's address or of its place in the shard.
    """
    try:
        sample = _sample(told, image=image, number=number)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise ImageError(f"{image}: its json is no sample ({type(error).__name__}, {error})") from error
    if not sample.annotated:
        raise ImageError(f"{image}: neither a caption nor a question nor a class goes with it")
    return sample


def _sample(told: Any, *, image: Member, number: int) -> Sample:
    ours = told.get(MARK) == 1
    captions = told.get("captions", told.get("caption")) or []
    texts = _texts([captions] if isinstance(captions, str) else captions)
    address = str(told.get("url") or told.get("sha256") or f"{image.archive.name}/{image.name}")
    if not ours:  # other columns of a foreign record may have our names and mean other things
        asked = {key: told.get(key) for key in ("question", "choices", "answers")}
        digits = str(told.get("label")).removeprefix("-")
        told = asked | ({"label": told["label"]} if digits.isdecimal() and len(digits) < 19 else {})
    boxes, label = told.get("boxes"), told.get("label")
    return Sample(
        id=_number(told["id"]) if ours else OTHER + hashed(address),
        sample=_number(told["sample"]) if ours else number,
        image=image,
        captions=tuple(words for text in texts if (words := " ".join(text.split()))),
        question=None if told.get("question") is None else _text(told["question"]),
        choices=_texts(told.get("choices") or []),
        answers=_texts(told.get("answers") or []),
        answer_weight=float(told.get("answer_weight", 1.0)),
        question_type=None if told.get("question_type") is None else _text(told["question_type"]),
        answer_type=None if told.get("answer_type") is None else _text(told["answer_type"]),
        label=None if label is None or int(label) == -1 else _number(int(label)),
        categories=tuple(map(_number, told.get("categories") or ())),
        also_true=tuple(tuple(map(_number, ids)) for ids in told.get("also_true") or ()),
        boxes=None if boxes is None else tuple(_box(box) for box in boxes),
        box_labels=tuple(map(_number, told.get("box_labels") or ())),
        blanks=tuple(Blank(**{**blank, "words": tuple(blank["words"])}) for blank in told.get("blanks") or ()),
    )


def _number(value: object) -> int:
    if not is_id(value):
        raise UserError(f"{str(value)[:40]} is no whole number from 0 on")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise UserError(f"{str(value)[:40]} is no text")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise UserError(f"{str(values)[:40]} is no list of texts")
    return tuple(map(_text, values))


def _box(box: Any) -> tuple[float, ...]:
    left, top, right, bottom = map(float, box)
    return left, top, right, bottom
