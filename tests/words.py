"""A tokenizer of a few words, for tests that generate text."""

from __future__ import annotations

from collections.abc import Sequence

from vlp.tokenizers.base import Tokenizer

WORDS = ("red", "green", "blue", "circle", "square", "one", "two", "what", "colour", "is", "the", "shape", "how", "many", "a", "of",
         "picture", "yes", "no")  # fmt: skip


class WordTokenizer(Tokenizer):
    """Padding 0, start 1, end 2, then the words."""

    def __init__(self, words: Sequence[str] = WORDS) -> None:
        self.words = list(words)
        super().__init__(backend=None, size=3 + len(words), context_length=16, start_id=1, end_id=2, pad_id=0)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[3 + self.words.index(word) for word in text.split()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        row = [int(i) for i in ids]
        row = row[: row.index(2)] if 2 in row else row
        return " ".join(self.words[i - 3] for i in row if i > 2)
