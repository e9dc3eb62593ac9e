"""From the ids of texts to padded rows, without torch: start and end tokens, truncation, padding, cleaning.

One place for all tokenizers: `vlp.tokenizers.base` makes tensors of the rows, `vlp.deploy.runtime` uses them as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from vlp.system.errors import UserError
from vlp.tokenizers.cleaning import CLEANINGS
from vlp.tokenizers.clip_encoding import encode_clip

# captions are too short to gain from Rust threads, and with them forked data workers print warnings
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

KINDS = ("caption", "question", "answer", "dialogue")
Encode = Callable[[Sequence[str]], list[list[int]]]  # texts → ids of each, without start, end or padding, however long


@dataclass(frozen=True, kw_only=True)
class TextRules:
    """truncate: False = a text that is too long is a UserError.  mask_id: of the mask token; None = the vocabulary has none.
    add_end: False for ALBEF, whose captions and questions have no end token.  add_start: False for SigLIP, whose texts have no
    start token.  cleaning: applied to captions and questions first, a name of `vlp.tokenizers.cleaning`.
    answer_suffix: ordinary text that ends an answer instead of the end token.
    encoding: what is done around the backend that splits texts into ids; "clip" = `vlp.tokenizers.clip_encoding`, None = nothing.
    """

    context_length: int
    start_id: int
    end_id: int
    pad_id: int
    mask_id: int | None = None
    truncate: bool = True
    add_start: bool = True
    add_end: bool = True
    cleaning: str | None = None
    answer_suffix: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.cleaning is not None and self.cleaning not in CLEANINGS:
            raise UserError(f"unknown tokenizer.cleaning={self.cleaning!r}: choose from {', '.join(CLEANINGS)}")
        if self.context_length < 2:
            raise UserError(f"context_length={self.context_length}: give at least 2, for the start and the end token")
        if self.encoding not in (None, "clip"):
            raise UserError(f"unknown encoding={self.encoding!r} of a tokenizer: this vlp knows clip")

    def encode(self, texts: Sequence[str], encode: Encode, *, kind: str = "caption") -> list[list[int]]:
        """Complete rows of ids, not padded.  kind: of KINDS; an answer is not cleaned and always gets the end token (or its
        suffix), as it is to be generated; a dialogue ends with the question to answer, so it is cut from its start."""
        if kind != "answer":
            cleaned = [self.clean(text, kind) for text in texts]
            return self.complete(encode(cleaned), cleaned, end=self.add_end, cut_start=kind == "dialogue")
        if self.answer_suffix is not None:
            texts = [text + self.answer_suffix for text in texts]
            return self.complete(encode(texts), texts, end=False)
        return self.complete(encode(texts), texts, end=True)

    def split(self, backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text by a backend of the Rust library, as the tokenizer with these rules has them."""
        if self.encoding == "clip":
            return encode_clip(texts, lambda texts: split(backend, texts), start_id=self.start_id, end_id=self.end_id)
        return split(backend, texts)

    def clean(self, text: str, kind: str) -> str:
        return text if self.cleaning is None else CLEANINGS[self.cleaning](text, kind)

    def complete(
        self, rows: Sequence[list[int]], texts: Sequence[str], *, end: bool, cut_start: bool = False
    ) -> list[list[int]]:
        """With start and end, truncated: a text that is too long loses its last tokens but keeps its end token, because CLIP pools
        there.  texts: of the rows, for the error.  end: add the end token.  cut_start: it loses its first tokens instead."""
        start_ids, end_ids = [self.start_id] if self.add_start else [], [self.end_id] if end else []
        limit = self.context_length - len(start_ids) - len(end_ids)
        too_long = next((index for index, row in enumerate(rows) if len(row) > limit), None)
        if too_long is not None and not self.truncate:
            raise UserError(
                f"{len(rows[too_long]) + self.context_length - limit} tokens are too many for "
                f"context_length={self.context_length}: "
                f"{texts[too_long][:80]!r}; set tokenizer.truncate=true to truncate such texts"
            )
        kept = [row[max(0, len(row) - limit) :] if cut_start else row[:limit] for row in rows]
        return [[*start_ids, *row, *end_ids] for row in kept]

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Ids (int64) padded to the longest row, one column at least, and which of them are real."""
        length = max((len(row) for row in rows), default=1)
        ids = np.full((len(rows), length), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=bool)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = True
        return ids, mask

    def body(self, ids: Sequence[int]) -> list[int]:
        """What lies between the start token (if there is one) and the first end token."""
        row = [int(i) for i in ids]
        row = row[1:] if row[:1] == [self.start_id] else row
        return row[: row.index(self.end_id)] if self.end_id in row else row


def split(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text by the backend alone.  Raises UserError for a text that is no Unicode."""
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    except TypeError as error:  # of the Rust library, which does not say why
        for text in texts:
            if any("\ud800" <= character <= "\udfff" for character in text):
                message = f"{text[:80]!r} has half of a surrogate pair, which is no character: repair the text"
                raise UserError(message) from error
        raise
