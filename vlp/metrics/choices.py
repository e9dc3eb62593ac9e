"""The figures of questions with several candidate answers, of which one is right, and of questions whose answer has candidate
reasons (visual commonsense reasoning).

Tie rule: a choice among candidates of which m share the highest score counts 1/m if the right one is among them, what it would be
worth on average if ties were broken by lot. So a model that gives all candidates one score has the accuracy of chance. Without
ties the figures are those of rowanz/r2c, models/eval_q2ar.py, which takes the first of the highest.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vlp.metrics.recall import count_ties, expected_hit


def choice_credit(scores: Float[Tensor, "n k"], label: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """In [0, 1]: the share of the right choice among those with the highest score, in float64.  Raises UserError for a score that
    is not finite."""
    return expected_hit(count_ties(scores, F.one_hot(label, scores.shape[1]).bool()), 1)


def reasoning_accuracy(answer: Float[Tensor, " n"], rationale: Float[Tensor, " n"]) -> dict[str, float]:
    """Percent, from the credit of each question's answer and of its rationale given the right answer; `answer_and_rationale` counts
    both right. The same to the last bit in any order of the questions."""
    both = {"answer": answer, "rationale": rationale, "answer_and_rationale": answer * rationale}
    return {name: 100 * math.fsum(credit.tolist()) / len(credit) for name, credit in both.items()}
