"""The tokenizer of an artifact: tokenizer.json, read by the Rust library, with the rules of the manifest.

Its ids are those of the `vlp.tokenizers.base.Tokenizer` that it was written from, since both use `vlp.tokenizers.rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from vlp.system.errors import UserError
from vlp.tokenizers.rules import KINDS, TextRules


class ArtifactTokenizer:
    """file: in the format of Hugging Face's `tokenizers`.  May be used by several threads at once."""

    def __init__(self, file: Path, rules: TextRules) -> None:
        self.rules = rules
        try:
            self._backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the Rust library raises plain exceptions
            if isinstance(error, OSError):
                raise
            raise UserError(f"{file}: damaged ({error}); copy the artifact again") from error

    def __call__(
        self, texts: Sequence[Any], *, kind: str = "caption"
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Ids padded to the longest text, and which of them are real.  kind: caption, question or answer, see `TextRules`.  Raises
        UserError for what is no string."""
        if kind not in KINDS:
            raise UserError(f"kind={kind!r} of texts: choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise UserError(f"texts are strings, not {type(wrong[0]).__name__}")
        return self.rules.pad(self.rules.encode(texts, self.encode, kind=kind))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without start, end or padding, however long."""
        try:
            return self.rules.split(self._backend, texts)
        except ModuleNotFoundError as error:
            message = "this text may need ftfy's repair, as CLIP's tokenizer has it: pip install 'vlp[clip]'"
            raise UserError(message) from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text between the start token (if there is one) and the first end token, as the tokenizer normalises it."""
        return self._backend.decode(self.rules.body(ids), skip_special_tokens=False).strip()
