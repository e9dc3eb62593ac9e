"""The rows of the lists of ALBEF, BLIP and LAVIS: which keys hold the image, the captions, the question and its answers.

    pre-training, retrieval  {"image", "caption": text | [text, ..]}                     image_id is not needed
    TextCaps                 {"image_id", "caption_str"}                                 in {"data": [..]}
    VSR                      {"image", "caption", "relation", "label": 0 | 1}            0: the caption is false
    VQA, OK-VQA, GQA, VG     {"image", "question", "question_id", "answer": text | [text, ..], "dataset"}
    VizWiz                   {"image", "question", "answers": [{"answer"}, ..]}
    A-OKVQA                  {"image", "question", "direct_answers": [..], "choices": [..], "correct_choice_idx": 0}

github.com/salesforce/LAVIS, lavis/datasets/datasets. Its lists of NLVR2 (two images) and SNLI-VE (a sentence that may
contradict the image) hold neither captions nor questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import objects_in_list, path_or_gzip, read_json, read_json_lines
from vlp.data.issues import DataError, Faults

Row = dict[str, Any]


def flat_rows(path: Path, *, what: str, faults: Faults) -> Iterator[tuple[str, Row]]:
    """Each row of a JSON list, of an object {id: row} or {"data" or "annotations": [row, ..]}, or of JSONL, with its
    place; .gz may be added."""
    path = path_or_gzip(path)
    if path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        yield from read_json_lines(path, description=what, faults=faults)
        return
    content = read_json(path, description=what)
    if isinstance(content, dict):
        inner = next((content[key] for key in ("data", "annotations") if isinstance(content.get(key), list)), None)
        content = list(content.values()) if inner is None else inner
    for number, row in enumerate(objects_in_list(content, location=path)):
        yield f"{path}: [{number}]", row


def row_image(row: Row, *, place: str) -> str:
    image = f"{row['image_id']}.jpg" if "caption_str" in row and "image_id" in row else row.get("image")
    if not isinstance(image, str):
        raise DataError("missing key", f"{place}: no image in it")
    return image


def row_captions(row: Row) -> list[object] | None:
    """None: it has none."""
    listed_captions = row.get("caption", row.get("caption_str"))
    return (
        None if listed_captions is None else listed_captions if isinstance(listed_captions, list) else [listed_captions]
    )


def is_false(row: Row) -> bool:
    """Whether its caption is not true of the image."""
    return "relation" in row and row.get("label") in (0, "0", "False")


def row_question(row: Row, *, place: str) -> tuple[str, tuple[str, ...]]:
    """The question, and an answer for each person who was asked."""
    listed_captions: Any = next(
        (row[key] for key in ("answer", "answers", "direct_answers") if row.get(key) is not None), []
    )
    each = listed_captions if isinstance(listed_captions, list) else [listed_captions]
    answers: list[Any] = [answer.get("answer") if isinstance(answer, dict) else answer for answer in each]
    question = row["question"]
    if not isinstance(question, str) or not question.strip() or not all(isinstance(a, str) for a in answers):
        message = f"{place}: expected a text question and an answer that is a text or a list of texts"
        raise DataError("question or answer is no text", message)
    return " ".join(question.split()), tuple(answers)


def row_choices(row: Row, *, place: str) -> tuple[tuple[str, ...], int | None]:
    """Candidate answers, and which one is right where the file says so."""
    choices, right = row.get("choices") or [], row.get("correct_choice_idx")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise DataError("question or answer is no text", f"{place}: choices must be a list of texts")
    if choices and right is not None and right not in range(len(choices)):
        raise DataError(
            "unknown choice", f"{place}: correct_choice_idx {right!r} is no index of the {len(choices)} choices"
        )
    return tuple(choices), right if choices else None
