"""Figures of translations: sacrebleu's BLEU and chrF with their signatures, intervals, and right colours.

Papineni et al., P02-1040 (BLEU); Popović, W15-3049 (chrF); Post, W18-6319 (sacrebleu: figures are of one tokenisation only, which
the signature names). Intervals are by the bootstrap over pictures (Koehn, W04-3250; see vlp/metrics/bootstrap.py). METEOR needs
Java and COMET needs weights of others: neither is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor

from vlp.data.colour_words import named_colours
from vlp.metrics.bootstrap import confidence_interval
from vlp.system.errors import UserError

TOKENIZATIONS = ("13a", "intl", "char", "none")  # of sacrebleu, those that need no other package
ORDER = 4


@dataclass(frozen=True, kw_only=True)
class TranslationScores:
    """lowercase, tokenize: as sacrebleu's."""

    lowercase: bool = False
    tokenize: str = "13a"

    def __post_init__(self) -> None:
        if self.tokenize not in TOKENIZATIONS:
            raise UserError(f"tasks.translation.tokenize={self.tokenize}: choose from {', '.join(TOKENIZATIONS)}")

    def _bleu(self) -> BLEU:
        return BLEU(lowercase=self.lowercase, tokenize=self.tokenize)

    def bleu(self, texts: Sequence[str], references: Sequence[str]) -> float:
        """Of the corpus, in percent."""
        return float(self._bleu().corpus_score(list(texts), [list(references)]).score)

    def chrf(self, texts: Sequence[str], references: Sequence[str]) -> float:
        """Of the corpus, in percent: up to 6 characters, no words, β 2."""
        return float(CHRF(lowercase=self.lowercase).corpus_score(list(texts), [list(references)]).score)

    def signatures(self) -> dict[str, str]:
        """sacrebleu's own, which say how the figures were computed and by which version."""
        bleu, chrf = self._bleu(), CHRF(lowercase=self.lowercase)
        bleu.corpus_score(["a"], [["a"]])  # the number of references is known after the first
        chrf.corpus_score(["a"], [["a"]])
        return {"bleu_signature": str(bleu.get_signature()), "chrf_signature": str(chrf.get_signature())}

    def statistics(self, texts: Sequence[str], references: Sequence[str]) -> Int[Tensor, "n s"]:
        """Of each text: correct n-grams of 1 to 4 words, all n-grams, its own length and its reference's, in words."""
        bleu, rows = BLEU(lowercase=self.lowercase, tokenize=self.tokenize, effective_order=True), []
        for text, reference in zip(texts, references, strict=True):
            score = bleu.sentence_score(text, [reference])
            rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), 2 * ORDER + 2)


def bleu_of_statistics(total: Int[Tensor, " s"]) -> float:
    """total: the sum of `TranslationScores.statistics`."""
    values = total.tolist()
    score = BLEU.compute_bleu(values[:ORDER], values[ORDER : 2 * ORDER], values[-2], values[-1], smooth_method="exp")
    return float(score.score)


def resampled_bleu(
    statistics: Int[Tensor, "n s"], group: Int[Tensor, " n"], *, draws: int = 1000, seed: int = 0
) -> Float[Tensor, " draws"]:
    """In each resample of the groups (pictures), with all their texts; equal groups and seed give equal resamples, so differences
    of two of these are paired."""
    ids, inverse = group.unique(return_inverse=True)
    total = torch.zeros(len(ids), statistics.shape[1], dtype=torch.int64).index_add(0, inverse, statistics)
    generator = torch.Generator().manual_seed(seed)
    scores = [
        bleu_of_statistics(total[torch.randint(len(ids), (len(ids),), generator=generator)].sum(0))
        for _ in range(draws)
    ]
    return torch.tensor(scores, dtype=torch.float64)


def with_interval(name: str, value: float, resamples: Float[Tensor, " draws"] | None) -> dict[str, float | None]:
    """The figure with `_low` and `_high`, its 95 % interval; None = undefined, of one group."""
    low, high = (None, None) if resamples is None else confidence_interval(resamples)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def right_colours(texts: Sequence[str], references: Sequence[str], language: str) -> tuple[int, int]:
    """How many colour words of the references are right, and how many there are: the first that a text names must be the first of
    its reference, and so on; one that is not there is wrong."""
    right = count = 0
    for text, reference in zip(texts, references, strict=True):
        expected, named = named_colours(reference, language), named_colours(text, language)
        right += sum(one == other for one, other in zip(expected, named, strict=False))
        count += len(expected)
    return right, count
