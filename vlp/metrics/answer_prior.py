"""What a VQA model must beat: the most frequent training answer to each kind of question, without looking at the image.

Goyal et al., "Making the V in VQA Matter", arXiv:1612.00837, §5 ("prior"; here one for each question type).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from vlp.structures import Sample
from vlp.tokenizers.vqa_normalisation import normalise_answer

FIRST_WORDS = 2


class AnswerPrior:
    """Learnt from training samples; ties go to the answer that comes first."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        counts: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
        for sample in samples:
            for answer, times in Counter(sample.answers).items():
                for kind in (question_kind(sample), None):
                    counts[kind][normalise_answer(answer)] += times
        self._best = {kind: count.most_common(1)[0][0] for kind, count in counts.items()}

    def __bool__(self) -> bool:
        return bool(self._best)

    def __call__(self, sample: Sample) -> str:
        """The answer to a question of this kind; to one that was never seen, the most frequent of all."""
        return self._best.get(question_kind(sample), self._best[None])


def question_kind(sample: Sample) -> str:
    """The data set's own question type, else the first two words."""
    if sample.question_type is not None:
        return sample.question_type
    return " ".join((sample.question or "").lower().split()[:FIRST_WORDS])
