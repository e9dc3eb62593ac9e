"""A baseline for VQA without the image: the most frequent training answer for each question type.

Goyal et al., "Making the V in VQA Matter", arXiv:1612.00837, §5 ("prior"; here one for each question type).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from vlp.structures import Sample
from vlp.tokenizers.vqa_normalisation import normalise_answer

FIRST_WORDS = 2


class AnswerPrior:
    """Counted on training samples; of equally frequent answers the first one is taken."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        counts: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
        for sample in samples:
            for answer, count in Counter(sample.answers).items():
                for kind in (question_type(sample), None):
                    counts[kind][normalise_answer(answer)] += count
        self._best = {kind: counter.most_common(1)[0][0] for kind, counter in counts.items()}

    def __bool__(self) -> bool:
        return bool(self._best)

    def __call__(self, sample: Sample) -> str:
        """The most frequent answer for the question's type, or of all for a type without training questions."""
        return self._best.get(question_type(sample), self._best[None])


def question_type(sample: Sample) -> str:
    """As the data set gives it, else the first two words."""
    if sample.question_type is not None:
        return sample.question_type
    return " ".join((sample.question or "").lower().split()[:FIRST_WORDS])
