"""The answer vocabulary of a VQA classifier, and the soft score of each of its answers.

ViLT's rule (dandelin/ViLT, vilt/utils/write_vqa.py): the answers are the normalised `multiple_choice_answer` that at
least nine training questions have, in the order of their first appearance: 3,129 over VQA v2's train and val. The
score of an answer that n of ten annotators gave is 0, .3, .6, .9, 1 for n = 0, 1, 2, 3, ≥ 4. One difference: ViLT
compares annotators' answers as typed, so "Yes" or "2 people." score 0; here they are normalised first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from vlp.data.annotation_files import read_json
from vlp.data.issues import DataError
from vlp.tokenizers import vqa_normalisation

ANNOTATORS = 10  # of each question in VQA v2
SCORE_PER_ANNOTATOR = 0.3  # up to 1 in total

normalise_answer = lru_cache(maxsize=1 << 16)(
    vqa_normalisation.normalise_answer
)  # most questions have frequent answers


def answer_text(value: object) -> str | None:
    """An answer as text, also where a file has a number: 2 and 2.0 as "2", 0.5 as "0.5"; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) else str(value)


def frequent_answers(answers: Iterable[str], *, at_least: int) -> tuple[str, ...]:
    """Normalised answers that occur `at_least` times, in the order of their first appearance."""
    counts = Counter(map(normalise_answer, answers))  # keeps that order
    return tuple(answer for answer, count in counts.items() if count >= at_least)


def read_answer_vocabulary(path: Path) -> tuple[str, ...]:
    """A published label map: a JSON list of answers (`trainval_label2ans.json`) or an object {answer: index}
    (`trainval_ans2label.json`). The answers are not changed, also an empty one.  Raises DataError."""
    content = read_json(path, description="the answer vocabulary")
    if isinstance(content, dict):
        if sorted(content.values(), key=str) != sorted(range(len(content)), key=str):
            message = f"{path}: the indices of {len(content)} answers must be 0 to {len(content) - 1}, each once"
            raise DataError("answers not numbered without gaps", message)
        content = sorted(content, key=content.__getitem__)
    answers = [answer_text(answer) for answer in content] if isinstance(content, list) else []
    if not answers or None in answers:
        message = f"{path}: expected a list of answers or an object {{answer: index}}"
        raise DataError("unexpected structure", message)
    if len(set(answers)) < len(answers):
        raise DataError(
            "answer listed twice", f"{path}: some answers are listed more than once; remove the repetitions"
        )
    return tuple(answer for answer in answers if answer is not None)


def soft_scores(answers: Sequence[str], vocabulary: Mapping[str, int]) -> dict[int, float]:
    """From the index of each given answer of the vocabulary to its score in (0, 1].

    Counts are scaled to ten annotators, so the answer of a single annotator has score 1.
    """
    counts = Counter(vocabulary.get(normalise_answer(answer)) for answer in answers)
    return {
        index: min(1.0, SCORE_PER_ANNOTATOR * count * ANNOTATORS / len(answers))
        for index, count in counts.items()
        if index is not None
    }
