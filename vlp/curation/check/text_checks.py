"""The captions and questions of a split: how long they are against the model's context, and which are no words at all."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlp.data.issues import EXAMPLES
from vlp.system.units import printable

CHUNK = 4096
LONG = 1000  # characters: no caption of a photo


@dataclass
class Lengths:
    """In tokens, start and end included.  cut: texts that do not fit into the context; examples: the longest of them."""

    context: int
    count: int = 0
    total: int = 0
    longest: int = 0
    cut: int = 0
    examples: list[str] = field(default_factory=list)
    histogram: dict[int, int] = field(default_factory=dict)

    def add(self, texts: Sequence[str], tokenizer: Any) -> None:
        extra = 2 if tokenizer.add_end else 1
        for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
            tokens = len(ids) + extra
            self.count += 1
            self.total += tokens
            self.longest = max(self.longest, tokens)
            self.histogram[tokens] = self.histogram.get(tokens, 0) + 1
            if tokens > self.context:
                self.cut += 1
                if len(self.examples) < EXAMPLES:
                    self.examples.append(f"{tokens} tokens: {printable(text, 80)}")


def lengths(texts: Iterable[str], tokenizer: Any) -> Lengths:
    found, chunk = Lengths(context=tokenizer.context_length), []
    for text in texts:
        chunk.append(text)
        if len(chunk) == CHUNK:
            found.add(chunk, tokenizer)
            chunk = []
    if chunk:
        found.add(chunk, tokenizer)
    return found


def oddities(text: str) -> list[str]:
    """What is strange about a text without being an error: it is read as it is, and shown with escapes."""
    found = []
    if len(text) > LONG:
        found.append("very long caption")
    kinds = {unicodedata.category(character) for character in text}
    if "Cc" in kinds or "Cf" in kinds:
        found.append("control characters in a caption")
    if not any(kind[0] in "LN" for kind in kinds):
        found.append("caption without a word")
    if any(mark in text for mark in ("<script", "</", "[/", "\x1b[")):
        found.append("markup in a caption")
    return found
