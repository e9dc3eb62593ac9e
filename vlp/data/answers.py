"""The answer vocabulary of a VQA classifier, and the soft score of each of its answers.

ViLT's rule (dandelin/ViLT, vilt/utils/write_vqa.py): the answers are the normalised `multiple_choice_answer` that at
least nine training questions have, in the order of their first appearance: 3,129 over VQA v2's train and val. The
score of an answer that n of ten people gave is 0, .3, .6, .9, 1 for n = 0, 1, 2, 3, ≥ 4. Not taken over: ViLT looks
people's answers up as they were typed, so "Yes" or "2 people." earned nothing; here they are normalised first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from vlp.data.annotation_files import read_json
from vlp.data.issues import DataError
from vlp.tokenizers import vqa_normalisation

PEOPLE = 10  # are asked in VQA v2
SCORE = 0.3  # of an answer for each of them who gave it, up to 1

normalise_answer = lru_cache(maxsize=1 << 16)(vqa_normalisation.normalise_answer)  # few answers are given very often


def frequent_answers(answers: Iterable[str], *, at_least: int) -> tuple[str, ...]:
    """Normalised answers that come up `at_least` times, in the order of their first appearance."""
    counts = Counter(map(normalise_answer, answers))  # keeps that order
    return tuple(answer for answer, count in counts.items() if count >= at_least)


def read_answers(path: Path) -> tuple[str, ...]:
    """A published label map: a JSON list of answers (`trainval_label2ans.json`) or an object {answer: index}
    (`trainval_ans2label.json`). The answers are kept as they stand there, an empty one included."""
    content = read_json(path, what="the answer vocabulary")
    if isinstance(content, dict):
        if sorted(content.values(), key=str) != sorted(range(len(content)), key=str):
            message = f"{path}: the indices of {len(content)} answers are not 0 to {len(content) - 1}, each once"
            raise DataError("answers not numbered without gaps", message)
        content = sorted(content, key=content.__getitem__)
    if not isinstance(content, list) or not content or not all(isinstance(answer, str) for answer in content):
        message = f"{path}: expected a list of answers or an object {{answer: index}}"
        raise DataError("unexpected structure", message)
    if len(set(content)) < len(content):
        raise DataError("answer listed twice", f"{path}: some answers are there more than once")
    return tuple(content)


def soft_scores(answers: Sequence[str], vocabulary: Mapping[str, int]) -> dict[int, float]:
    """Index → score, above 0, of the vocabulary's answers that people gave; their number counts as ten, so the answer
    of a single annotator has score 1."""
    known = Counter(vocabulary.get(normalise_answer(answer)) for answer in answers)
    return {
        index: min(1.0, SCORE * count * PEOPLE / len(answers)) for index, count in known.items() if index is not None
    }
