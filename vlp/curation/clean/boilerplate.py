"""Words that a web site adds to its captions and that describe no picture: "Image may contain: …", "stock photo of …".

A caption is boilerplate if many images have it. A phrase is boilerplate if many images' captions begin or end with it
(from 3 words on) or contain it anywhere (from 5 on) and its rarest word seldom occurs elsewhere: people write "a man in a"
often, and "man" as often without it, while "stock" occurs in "stock photo of" only. No caption of Flickr8k, which people
wrote, is detected as boilerplate; "a group of" is the nearest to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from sys import intern

from vlp.curation.clean.caption_rules import split_words

MIN_IMAGES = 10  # for a caption, as in ALIGN; in a small data set a small share is too few images to decide
MIN_WORDS = {"start": 3, "end": 3, "anywhere": 5}  # of a phrase, by its position in the caption
MAX_WORDS = 12
# of the images with a phrase's rarest word that have it in the phrase, as a lower bound; 0.82 for Flickr8k's "a group of"
MIN_IN_PHRASE = 0.9

Words = tuple[str, ...]


@dataclass(frozen=True)
class Boilerplate:
    """Words are case-folded and without punctuation; the values are the numbers of images."""

    captions: dict[Words, int]
    phrases: dict[str, dict[Words, int]]  # "start", "end", "anywhere"

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        return {position: sorted({len(phrase) for phrase in known}) for position, known in self.phrases.items()}

    def is_common_caption(self, caption: str) -> bool:
        return _interned_words(caption) in self.captions

    def find_phrase(self, caption: str) -> str | None:
        """The first boilerplate phrase of the caption."""
        words = _interned_words(caption)
        for position, known in self.phrases.items():
            for length in self._lengths[position]:
                for phrase in _ngrams(words, length, position):
                    if phrase in known:
                        return " ".join(phrase)
        return None


def find_boilerplate(
    captions: Iterable[Sequence[str]], *, caption_share: float = 0.0, phrase_share: float = 0.0
) -> Boilerplate:
    """captions: those of each image.  Shares of the images above which a caption, or a phrase, is boilerplate (with 10 images
    or fewer no caption is, below 36 no phrase); 0 = none is."""
    images = [[_interned_words(caption) for caption in image_captions] for image_captions in captions]
    common: dict[Words, int] = {}
    if caption_share:
        counts = Counter(caption for image_captions in images for caption in set(image_captions))
        limit = max(MIN_IMAGES, caption_share * len(images))
        common = {caption: count for caption, count in counts.items() if count > limit}
    phrases: dict[str, dict[Words, int]] = {}
    if phrase_share:
        with_word = Counter(word for image_captions in images for word in set(chain.from_iterable(image_captions)))
        limit = max(float(MIN_IMAGES), phrase_share * len(images))
        phrases = {position: _frequent_phrases(images, position, limit, with_word) for position in MIN_WORDS}
    return Boilerplate(common, phrases)


def _frequent_phrases(
    images: list[list[Words]], position: str, limit: float, with_word: Counter[str]
) -> dict[Words, int]:
    """Only frequent phrases are extended by a word, as in Agrawal and Srikant's Apriori (1994), so that memory does not grow
    with the number of different phrases; boilerplate phrases are not extended."""
    boilerplate: dict[Words, int] = {}
    shorter: set[Words] = {()}
    for length in range(1, MAX_WORDS + 1):
        counts: Counter[Words] = Counter()
        for image_captions in images:
            counts.update(
                {
                    phrase
                    for caption in image_captions
                    for phrase in _ngrams(caption, length, position)
                    if (position == "end" or phrase[:-1] in shorter) and (position == "start" or phrase[1:] in shorter)
                }
            )
        shorter = {phrase for phrase, count in counts.items() if count > limit}
        if length >= MIN_WORDS[position]:
            for phrase in list(shorter):
                with_rarest = min(with_word[word] for word in phrase)
                if _wilson_lower_bound(counts[phrase], with_rarest) >= MIN_IN_PHRASE:
                    boilerplate[phrase] = counts[phrase]
                    shorter.remove(phrase)
        if not shorter:
            break
    return boilerplate


def _wilson_lower_bound(successes: int, trials: int) -> float:
    """Of the success rate, at two standard errors (Wilson, 1927)."""
    rate, z = successes / trials, 2.0
    spread = z * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    return (rate + z**2 / (2 * trials) - spread) / (1 + z**2 / trials)


def _ngrams(caption: Words, length: int, position: str) -> Iterator[Words]:
    if position == "anywhere":
        for start in range(len(caption) - length + 1):
            yield caption[start : start + length]
    elif len(caption) >= length:
        yield caption[:length] if position == "start" else caption[-length:]


def _interned_words(caption: str) -> Words:
    return tuple(map(intern, split_words(caption))) or (caption,)  # a caption without words counts as one word
