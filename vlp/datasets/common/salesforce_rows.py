"""The rows of the lists of ALBEF, BLIP and LAVIS: which keys hold the image, the captions, the question and its answers.

    pre-training, retrieval  {"image", "caption": text | [text, ..]}                     image_id is not needed
    TextCaps                 {"image_id", "caption_str"}                                 in {"data": [..]}
    VSR                      {"image", "caption", "relation", "label": 0 | 1}            0: the caption is false
    VQA, OK-VQA, GQA, VG     {"image", "question", "question_id", "answer": text | [text, ..], "dataset"}
    VizWiz                   {"image", "question", "answers": [{"answer"}, ..]}
    A-OKVQA                  {"image", "question", "direct_answers": [..], "choices": [..], "correct_choice_idx": 0}
    SNLI-VE                  {"image", "sentence", "label": "entailment" | "neutral" | "contradiction"}
    SNLI-VE, official        {"Flickr30K_ID", "sentence2", "gold_label", "sentence1", ..}   sentence1 is a caption, not used

A sentence of SNLI-VE, which may contradict the image, is a question whose answer is one of three classes. An answer may be a
number. github.com/salesforce/LAVIS, lavis/datasets/datasets; its lists of NLVR2 (two images) are not read.
Xie et al., "Visual Entailment", arXiv:1901.06706.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlp.data.answers import answer_text
from vlp.data.issues import DataError

Row = dict[str, Any]
ENTAILMENT = ("entailment", "neutral", "contradiction")


def row_image(row: Row, *, place: str) -> str:
    key = "image_id" if "caption_str" in row and "image_id" in row else "Flickr30K_ID"
    image = row["image"] if key not in row and "image" in row else f"{row[key]}.jpg" if key in row else None
    if not isinstance(image, str):
        raise DataError("missing key", f"{place}: no image in it")
    return image


def row_captions(row: Row) -> list[object] | None:
    """None: it has no key of captions."""
    key = next((key for key in ("caption", "caption_str") if key in row), None)
    if key is None:
        return None
    return list(row[key]) if isinstance(row[key], list) else [row[key]]


def is_entailment(row: Row) -> bool:
    return ("sentence" in row and "label" in row and "image" in row) or ("sentence2" in row and "gold_label" in row)


def row_entailment(row: Row, *, place: str) -> tuple[str, int | None]:
    """The sentence, and the index of its class in ENTAILMENT; None where the annotators do not agree ("-")."""
    sentence, label = (row.get(new, row.get(old)) for new, old in (("sentence", "sentence2"), ("label", "gold_label")))
    if not isinstance(sentence, str) or not sentence.strip():
        raise DataError("question or answer is no text", f"{place}: expected a sentence that is a text")
    if label not in (*ENTAILMENT, "-"):
        message = f"{place}: {str(label)[:40]!r} is no class of visual entailment; use {', '.join(ENTAILMENT)}"
        raise DataError("unknown class", message)
    return " ".join(sentence.split()), None if label == "-" else ENTAILMENT.index(label)


def is_false(row: Row) -> bool:
    """Whether its caption is not true of the image."""
    return "relation" in row and row.get("label") in (0, "0", "False")


def row_question(row: Row, *, place: str) -> tuple[str, tuple[str, ...]]:
    """The question, and an answer for each person who was asked."""
    key = next((key for key in ("answer", "answers", "direct_answers") if row.get(key) is not None), None)
    listed: Any = [] if key is None else row[key]
    answers = _texts(listed if isinstance(listed, list) else [listed])
    question = row["question"]
    if not isinstance(question, str) or not question.strip() or answers is None:
        message = f"{place}: expected a text question and an answer that is a text, a number or a list of them"
        raise DataError("question or answer is no text", message)
    return " ".join(question.split()), answers


def _texts(answers: Sequence[Any]) -> tuple[str, ...] | None:
    """None: one of them is neither a text nor a number."""
    texts = [answer_text(item.get("answer") if isinstance(item, dict) else item) for item in answers]
    return None if None in texts else tuple(text for text in texts if text is not None)


def row_choices(row: Row, *, place: str) -> tuple[tuple[str, ...], int | None]:
    """Candidate answers, and which one is right where the file says so."""
    listed, right = row.get("choices") or [], row.get("correct_choice_idx")
    choices = _texts(listed) if isinstance(listed, list) else None
    if choices is None:
        raise DataError("question or answer is no text", f"{place}: choices must be a list of texts")
    if choices and right is not None and right not in range(len(choices)):
        raise DataError(
            "unknown choice", f"{place}: correct_choice_idx {right!r} is no index of the {len(choices)} choices"
        )
    return choices, right if choices else None
