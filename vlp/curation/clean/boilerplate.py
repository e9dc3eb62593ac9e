"""Words that a site puts on its pictures and that are about none of them: "Image may contain: …", "stock photo of …".

A whole caption is boilerplate when it stands at many images. A phrase is when many images' captions begin or end with it
(from 3 words on) or have it anywhere (from 5 on) and its rarest word is seldom seen elsewhere: people write "a man in a"
often, and "man" as often without it, while "stock" stands in "stock photo of" only. Nothing in Flickr8k, whose captions
people wrote, passes for boilerplate; "a group of" comes nearest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from sys import intern

from vlp.curation.clean.caption_rules import words

FEWEST_IMAGES = 10  # ALIGN's number for a whole caption; in a small data set it takes more than a small share to tell
SHORTEST = {"start": 3, "end": 3, "anywhere": 5}  # words of a phrase
LONGEST = 12
BOUND = 0.9  # of the images with a phrase's rarest word have it in the phrase, surely; 0.82 for Flickr8k's "a group of"

Phrase = tuple[str, ...]


@dataclass(frozen=True)
class Boilerplate:
    """Words case-folded, without punctuation; each with the number of images that have it."""

    captions: dict[Phrase, int]
    phrases: dict[str, dict[Phrase, int]]  # "start", "end", "anywhere"

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        return {place: sorted({len(phrase) for phrase in known}) for place, known in self.phrases.items()}

    def caption(self, caption: str) -> bool:
        return _words(caption) in self.captions

    def phrase(self, caption: str) -> str | None:
        """The phrase that makes the caption boilerplate."""
        found = _words(caption)
        for place, known in self.phrases.items():
            for length in self._lengths[place]:
                for phrase in _phrases(found, length, place):
                    if phrase in known:
                        return " ".join(phrase)
        return None


def find_boilerplate(
    captions: Iterable[Sequence[str]], *, caption_share: float = 0.0, phrase_share: float = 0.0
) -> Boilerplate:
    """captions: those of each image.  Shares of the images above which a caption, or a phrase, is boilerplate (at 10
    images or fewer no caption is, below 36 no phrase); 0 = look for none."""
    images = [[_words(caption) for caption in own] for own in captions]
    whole: dict[Phrase, int] = {}
    if caption_share:
        counted = Counter(caption for own in images for caption in set(own))
        limit = max(FEWEST_IMAGES, caption_share * len(images))
        whole = {caption: count for caption, count in counted.items() if count > limit}
    phrases: dict[str, dict[Phrase, int]] = {}
    if phrase_share:
        with_word = Counter(word for own in images for word in {word for caption in own for word in caption})
        limit = max(float(FEWEST_IMAGES), phrase_share * len(images))
        phrases = {place: _frequent(images, place, limit, with_word) for place in SHORTEST}
    return Boilerplate(whole, phrases)


def _frequent(images: list[list[Phrase]], place: str, limit: float, with_word: Counter[str]) -> dict[Phrase, int]:
    """A phrase grows by a word only from frequent ones, as in Agrawal and Srikant's Apriori (1994), so that memory does not
    grow with the number of different phrases; one that is boilerplate grows no further."""
    found: dict[Phrase, int] = {}
    shorter: set[Phrase] = {()}
    for length in range(1, LONGEST + 1):
        counted = Counter(
            phrase
            for own in images
            for phrase in {
                phrase
                for caption in own
                for phrase in _phrases(caption, length, place)
                if (place == "end" or phrase[:-1] in shorter) and (place == "start" or phrase[1:] in shorter)
            }
        )
        shorter = {phrase for phrase, count in counted.items() if count > limit}
        bound = {
            phrase
            for phrase in shorter
            if length >= SHORTEST[place] and _surely(counted[phrase], min(with_word[word] for word in phrase)) >= BOUND
        }
        found |= {phrase: counted[phrase] for phrase in bound}
        shorter -= bound
        if not shorter:
            break
    return found


def _surely(some: int, of: int) -> float:
    """A share that the true one is hardly below: Wilson's lower bound (1927) at two standard errors."""
    share, z = some / of, 2.0
    spread = z * math.sqrt(share * (1 - share) / of + (z / (2 * of)) ** 2)
    return (share + z**2 / (2 * of) - spread) / (1 + z**2 / of)


def _phrases(caption: Phrase, length: int, place: str) -> Iterator[Phrase]:
    if place == "anywhere":
        for start in range(len(caption) - length + 1):
            yield caption[start : start + length]
    elif len(caption) >= length:
        yield caption[:length] if place == "start" else caption[-length:]


def _words(caption: str) -> Phrase:
    return tuple(map(intern, words(caption))) or (caption,)  # a caption of signs alone is its own word
