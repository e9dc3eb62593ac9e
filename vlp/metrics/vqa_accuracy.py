"""VQA accuracy, as the official evaluation computes it: an answer that three people gave counts fully.

Antol et al., "VQA: Visual Question Answering", arXiv 1505.00468; GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/
vqaEval.py. Each of the (ten) human answers is left out once, the prediction scores min(n / 3, 1) where n of the others
equal it, and the accuracy is the mean of these scores: 0, 0.3, 0.6, 0.9 and 1 for none to four equal answers of ten.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

from vlp.system.errors import UserError
from vlp.tokenizers.vqa_normalisation import normalise_answer, trim_answer


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """In [0, 1]. Texts are normalised only where the answers differ: "Yes" against ten times "yes" scores 0.

    UserError for fewer than two answers, since with one left out there is nothing to compare with.
    """
    if len(answers) < 2:
        raise UserError(f"VQA accuracy needs the answers of several people (VQA v2 has ten), not {len(answers)}")
    prediction, answers = trim_answer(prediction), [trim_answer(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = normalise_answer(prediction), [normalise_answer(answer) for answer in answers]
    equal = [answer == prediction for answer in answers]
    return sum(min(1.0, (sum(equal) - left_out) / 3) for left_out in equal) / len(answers)


def answer_accuracy(answer: str, answers: Sequence[str]) -> float:
    """The official VQA accuracy; with one annotator (Visual Genome), for which it is not defined, 1 for an equal answer."""
    if len(answers) > 1:
        return vqa_accuracy(answer, answers)
    return float(normalise_answer(answer) == normalise_answer(answers[0]))


def summarise_accuracy(
    accuracies: Sequence[float],
    answer_types: Sequence[str] | None = None,
    question_types: Sequence[str] | None = None,
) -> dict[str, float]:
    """Percent with two decimals, as the official code prints them: `accuracy`, `accuracy_yes_no` … of the answer types,
    `accuracy_question_how_many` … of the question types. Each list has one entry for each question.
    """
    if not accuracies:
        raise UserError("VQA accuracy needs at least one answered question")
    if not all(map(math.isfinite, accuracies)):
        raise UserError("accuracies contain NaN or infinity: give each question a number in [0, 1]")
    figures = {"accuracy": _percent(accuracies)}
    for prefix, types in (("accuracy", answer_types), ("accuracy_question", question_types)):
        groups: dict[str, list[float]] = {}
        for accuracy, name in zip(accuracies, types or (), strict=types is not None):  # no types: no groups
            groups.setdefault(re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"), []).append(accuracy)
        figures |= {f"{prefix}_{name}": _percent(group) for name, group in sorted(groups.items())}
    return figures


def _percent(accuracies: Sequence[float]) -> float:
    """Halves are rounded up, as in Python 2; Python 3's `round` turns 90.625 into 90.62."""
    mean = Decimal(100 * math.fsum(accuracies) / len(accuracies))
    return float(mean.quantize(Decimal("0.01"), ROUND_HALF_UP))
