"""BLEU, ROUGE-L and CIDEr-D of captions, with the figures of COCO's evaluation (tylin/coco-caption, pycocoevalcap).

Papineni et al., "BLEU", ACL 2002; Lin, "ROUGE", ACL 2004 workshop; Vedantam et al., "CIDEr", arXiv 1411.5726; Chen et al.,
"Microsoft COCO Captions", arXiv 1504.00325. Libraries give other figures: torchmetrics' BLEU and ROUGE tokenize and average
differently, pycocoevalcap needs Java. METEOR is missing: it is a Java program with a table of paraphrases.

All functions take the words of `ptb_words`, by image: one candidate and at least one reference for each.
BLEU and ROUGE-L are in [0, 1], CIDEr-D in [0, 10]; papers print all of them times 100.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from vlp.metrics.ptb_tokenizer import ptb_words
from vlp.system.errors import UserError

Image = TypeVar("Image", bound=Hashable)
Words = Sequence[str]
Ngram = tuple[str, ...]

MAX_N = 4  # the longest n-grams that BLEU and CIDEr-D count
ROUGE_BETA = 1.2  # weight of recall against precision
CIDER_SIGMA = 6.0  # of the Gaussian over the difference in length
_TINY, _SMALL = (
    1e-15,
    1e-9,
)  # coco-caption adds them to the numerator and denominator of BLEU's fractions, against 0 / 0


def caption_scores(
    candidates: Mapping[Image, str], references: Mapping[Image, Sequence[str]]
) -> dict[str, float | None]:
    """`bleu_1` … `bleu_4`, `rouge_l` and `cider_d` of untokenized captions.

    UserError where the images of the two differ, or one has no reference. CIDEr-D weighs words by their rarity in the
    references of these images, so the figure of a subset cannot be compared, and that of one image is undefined: None.
    """
    _check_images(candidates, references)
    candidate_words = {image: ptb_words(caption) for image, caption in candidates.items()}
    reference_words = {image: [ptb_words(caption) for caption in references[image]] for image in candidates}
    scores: dict[str, float | None] = {
        f"bleu_{n}": value for n, value in enumerate(bleu(candidate_words, reference_words), start=1)
    }
    scores["rouge_l"] = fmean(rouge_l(candidate_words, reference_words).values())
    cider = cider_d(candidate_words, reference_words) if len(candidate_words) > 1 else None
    scores["cider_d"] = None if cider is None else fmean(cider.values())
    return scores


def bleu(candidates: Mapping[Image, Words], references: Mapping[Image, Sequence[Words]]) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 of all images together: n-grams are clipped to the most that one reference has, and the brevity
    penalty compares with each image's reference of the nearest length (of two equally near, the shorter)."""
    _check_images(candidates, references)
    length = reference_length = 0
    matched, total = [0] * MAX_N, [0] * MAX_N
    for image, words in candidates.items():
        length += len(words)
        reference_length += min((abs(len(r) - len(words)), len(r)) for r in references[image])[1]
        max_counts: Counter[Ngram] = Counter()
        for reference in references[image]:
            max_counts |= count_ngrams(reference)
        for ngram, count in count_ngrams(words).items():
            total[len(ngram) - 1] += count
            matched[len(ngram) - 1] += min(count, max_counts[ngram])
    ratio = (length + _TINY) / (reference_length + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for n in range(MAX_N):
        product *= (matched[n] + _TINY) / (total[n] + _SMALL)
        scores.append(penalty * product ** (1 / (n + 1)))
    return tuple(scores)


def rouge_l(candidates: Mapping[Image, Words], references: Mapping[Image, Sequence[Words]]) -> dict[Image, float]:
    """F-measure of the longest common subsequence, for each image; precision and recall are each the best over the
    references."""
    _check_images(candidates, references)
    return {image: _rouge_l(words, references[image]) for image, words in candidates.items()}


def _rouge_l(candidate: Words, references: Sequence[Words]) -> float:
    candidate, references = candidate or [""], [reference or [""] for reference in references]  # "" equals only ""
    common = [lcs_length(candidate, reference) for reference in references]
    precision = max(common) / len(candidate)
    recall = max(count / len(reference) for count, reference in zip(common, references, strict=True))
    if not precision:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def cider_d(candidates: Mapping[Image, Words], references: Mapping[Image, Sequence[Words]]) -> dict[Image, float]:
    """Ten times the mean over references and n = 1 … 4 of the clipped tf-idf cosine, for each image.

    idf: log of the number of images minus log of those with the n-gram in a reference. The length in the Gaussian penalty is
    the number of bigrams.  Of one image every idf is log 1 = 0 and every cosine 0 / 0: the original gives 0, `caption_scores`
    None.
    """
    _check_images(candidates, references)
    counts = {image: [count_ngrams(words) for words in references[image]] for image in candidates}
    document_frequency: Counter[Ngram] = Counter()
    for image_counts in counts.values():
        document_frequency.update(set().union(*image_counts))
    log_images = math.log(len(counts))
    idf = {ngram: log_images - math.log(images) for ngram, images in document_frequency.items()}

    def tf_idf(ngrams: Counter[Ngram]) -> tuple[dict[Ngram, float], list[float], int]:
        """The weight of each n-gram, the norm of the weights for each n, and the number of bigrams."""
        weights = {ngram: count * idf.get(ngram, log_images) for ngram, count in ngrams.items()}
        squares = [0.0] * MAX_N
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        return weights, [math.sqrt(square) for square in squares], sum(c for g, c in ngrams.items() if len(g) == 2)

    scores = {}
    for image, words in candidates.items():
        weights, norms, length = tf_idf(count_ngrams(words))
        total = 0.0
        for reference in counts[image]:
            reference_weights, reference_norms, reference_length = tf_idf(reference)
            products = [0.0] * MAX_N
            for ngram in weights.keys() & reference_weights.keys():
                weight = reference_weights[ngram]
                products[len(ngram) - 1] += min(weights[ngram], weight) * weight
            cosines = (p / (a * b) for p, a, b in zip(products, norms, reference_norms, strict=True) if a and b)
            total += math.fsum(cosines) * math.exp(-((length - reference_length) ** 2) / (2 * CIDER_SIGMA**2))
        scores[image] = 10 * total / (MAX_N * len(counts[image]))
    return scores


def count_ngrams(words: Words) -> Counter[Ngram]:
    """All n-grams of 1 to 4 words."""
    return Counter(tuple(words[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(words) - n + 1))


def lcs_length(first: Words, second: Words) -> int:
    """Length of the longest common subsequence, with one big-integer step for each word of `second` (Hyyrö, "Bit-parallel
    LCS-length computation", 2004).

    Bit i of `row` is 0 where the row of the table increases from column i to i + 1.
    """
    positions: dict[str, int] = {}  # of each word, as bits
    for position, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << position
    row = full = (1 << len(first)) - 1
    for word in second:
        matched = row & positions.get(word, 0)
        row = (row + matched | row - matched) & full
    return (full & ~row).bit_count()


def _check_images(candidates: Mapping[Image, object], references: Mapping[Image, Sequence[object]]) -> None:
    if not candidates:
        raise UserError("no captions to score")
    for name, images in (
        ("no candidate caption", references.keys() - candidates.keys()),
        ("no references", {image for image in candidates if not references.get(image)}),
    ):
        if images:
            example = min(images, key=str)
            raise UserError(f"{len(images)} images have {name}, for example image {example!r}; give every image both")
