"""BLEU, ROUGE-L and CIDEr-D of captions, with the figures of COCO's evaluation (tylin/coco-caption, pycocoevalcap).

Papineni et al., "BLEU", ACL 2002; Lin, "ROUGE", ACL 2004 workshop; Vedantam et al., "CIDEr", arXiv 1411.5726; Chen et al.,
"Microsoft COCO Captions", arXiv 1504.00325. Libraries come close but not equal: torchmetrics' BLEU and ROUGE split and
average otherwise, pycocoevalcap needs Java. METEOR is left out: it is a Java program with a table of paraphrases.

All functions take words as `ptb_words` gives them, by image: one candidate and at least one reference each.
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

ORDER = 4  # the longest n-grams that BLEU and CIDEr-D count
ROUGE_BETA = 1.2  # weight of recall against precision
CIDER_SIGMA = 6.0  # of the Gaussian over the difference in length
_TINY, _SMALL = 1e-15, 1e-9  # coco-caption adds them above and below each of BLEU's fractions, against 0 / 0


def caption_scores(candidates: Mapping[Image, str], references: Mapping[Image, Sequence[str]]) -> dict[str, float]:
    """`bleu_1` … `bleu_4`, `rouge_l` and `cider_d` of captions as they are written.

    UserError where the images of the two differ, or one has no reference. CIDEr-D weighs words by how few of these
    images' references have them, so that figures of a subset do not compare (and of one image are 0).
    """
    _check_images(candidates, references)
    spoken = {image: ptb_words(caption) for image, caption in candidates.items()}
    written = {image: [ptb_words(caption) for caption in references[image]] for image in spoken}
    scores = {f"bleu_{n}": value for n, value in enumerate(bleu(spoken, written), start=1)}
    scores["rouge_l"] = fmean(rouge_l(spoken, written).values())
    scores["cider_d"] = fmean(cider_d(spoken, written).values())
    return scores


def bleu(candidates: Mapping[Image, Words], references: Mapping[Image, Sequence[Words]]) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 of all images together: n-grams are clipped to the most that one reference has, and the brevity
    penalty compares with each image's reference of the nearest length (of two equally near, the shorter)."""
    _check_images(candidates, references)
    length = reference_length = 0
    right, all_of = [0] * ORDER, [0] * ORDER
    for image, words in candidates.items():
        length += len(words)
        reference_length += min((abs(len(r) - len(words)), len(r)) for r in references[image])[1]
        most: Counter[Ngram] = Counter()
        for reference in references[image]:
            most |= count_ngrams(reference)
        for ngram, count in count_ngrams(words).items():
            all_of[len(ngram) - 1] += count
            right[len(ngram) - 1] += min(count, most[ngram])
    ratio = (length + _TINY) / (reference_length + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for n in range(ORDER):
        product *= (right[n] + _TINY) / (all_of[n] + _SMALL)
        scores.append(penalty * product ** (1 / (n + 1)))
    return tuple(scores)


def rouge_l(candidates: Mapping[Image, Words], references: Mapping[Image, Sequence[Words]]) -> dict[Image, float]:
    """F of the longest common subsequence, each image; precision and recall are each the best over the references."""
    _check_images(candidates, references)
    return {image: _rouge_l(words, references[image]) for image, words in candidates.items()}


def _rouge_l(candidate: Words, references: Sequence[Words]) -> float:
    candidate, references = candidate or [""], [reference or [""] for reference in references]  # "" equals only ""
    common = [common_subsequence(candidate, reference) for reference in references]
    precision = max(common) / len(candidate)
    recall = max(count / len(reference) for count, reference in zip(common, references, strict=True))
    if not precision:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def cider_d(candidates: Mapping[Image, Words], references: Mapping[Image, Sequence[Words]]) -> dict[Image, float]:
    """Ten times the mean over references and n = 1 … 4 of the clipped tf-idf cosine, each image.

    idf: log of all images less log of those with the n-gram in a reference. The length in the Gaussian penalty is the
    number of bigrams.
    """
    _check_images(candidates, references)
    counts = {image: [count_ngrams(words) for words in references[image]] for image in candidates}
    seen_in: Counter[Ngram] = Counter()
    for of_image in counts.values():
        seen_in.update(set().union(*of_image))
    log_images = math.log(len(counts))
    rarity = {ngram: log_images - math.log(images) for ngram, images in seen_in.items()}

    def weigh(of_caption: Counter[Ngram]) -> tuple[dict[Ngram, float], list[float], int]:
        """tf-idf of each n-gram, their norm for each n, and the number of bigrams."""
        weights = {ngram: count * rarity.get(ngram, log_images) for ngram, count in of_caption.items()}
        squares = [0.0] * ORDER
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        return weights, [math.sqrt(square) for square in squares], sum(c for g, c in of_caption.items() if len(g) == 2)

    scores = {}
    for image, words in candidates.items():
        weights, norms, length = weigh(count_ngrams(words))
        total = 0.0
        for of_reference in counts[image]:
            reference_weights, reference_norms, reference_length = weigh(of_reference)
            products = [0.0] * ORDER
            for ngram in weights.keys() & reference_weights.keys():
                weight = reference_weights[ngram]
                products[len(ngram) - 1] += min(weights[ngram], weight) * weight
            cosines = (p / (a * b) for p, a, b in zip(products, norms, reference_norms, strict=True) if a and b)
            total += math.fsum(cosines) * math.exp(-((length - reference_length) ** 2) / (2 * CIDER_SIGMA**2))
        scores[image] = 10 * total / (ORDER * len(counts[image]))
    return scores


def count_ngrams(words: Words) -> Counter[Ngram]:
    """All n-grams of 1 to 4 words."""
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(words) - n + 1))


def common_subsequence(first: Words, second: Words) -> int:
    """Length of the longest one, in one big-integer step a word (Hyyrö, "Bit-parallel LCS-length computation", 2004).

    Bit i of `row` is 0 where the table's row grows from column i to i + 1.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    row = full = (1 << len(first)) - 1
    for word in second:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & full
    return (full & ~row).bit_count()


def _check_images(candidates: Mapping[Image, object], references: Mapping[Image, Sequence[object]]) -> None:
    if not candidates:
        raise UserError("no captions to score")
    for name, lost in (
        ("no candidate caption", references.keys() - candidates.keys()),
        ("no references", {image for image in candidates if not references.get(image)}),
    ):
        if lost:
            example = min(lost, key=str)
            raise UserError(f"{len(lost)} images have {name}, for example image {example!r}; give every image both")
