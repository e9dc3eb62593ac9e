"""Captions and questions: their lengths in tokens, and faults of single texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from vlp.data.issues import MAX_EXAMPLES
from vlp.system.units import printable

TEXTS_PER_CALL = 4096  # of the tokenizer
LONG_CAPTION = 1000  # characters


@dataclass
class TokenLengths:
    """Start and end tokens are counted.  cut: texts longer than the context; examples: the first of them."""

    context: int
    count: int = 0
    total: int = 0
    longest: int = 0
    cut: int = 0
    examples: list[str] = field(default_factory=list)
    histogram: dict[int, int] = field(default_factory=dict)

    def add(self, text: str, tokens: int) -> None:
        self.count += 1
        self.total += tokens
        self.longest = max(self.longest, tokens)
        self.histogram[tokens] = self.histogram.get(tokens, 0) + 1
        if tokens > self.context:
            self.cut += 1
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append(f"{tokens} tokens: {printable(text, 80)}")


def measure_token_lengths(texts: Iterable[str], tokenizer: Any) -> TokenLengths:
    lengths, remaining = TokenLengths(context=tokenizer.context_length), iter(texts)
    special_tokens = 2 if tokenizer.add_end else 1
    while chunk := list(islice(remaining, TEXTS_PER_CALL)):
        for text, ids in zip(chunk, tokenizer.encode(chunk), strict=True):
            lengths.add(text, len(ids) + special_tokens)
    return lengths


def text_faults(text: str) -> list[str]:
    """Kinds of faults that do not end a run: the text is trained on as it is."""
    faults = []
    if len(text) > LONG_CAPTION:
        faults.append("very long caption")
    categories = {unicodedata.category(character) for character in text}
    if "Cc" in categories or "Cf" in categories:
        faults.append("control characters in a caption")
    if not any(category[0] in "LN" for category in categories):
        faults.append("caption without a word")
    if any(mark in text for mark in ("<script", "</", "[/", "\x1b[")):
        faults.append("markup in a caption")
    return faults
