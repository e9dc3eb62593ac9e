"""tokenizer.json of an artifact: the Rust library's part of a tokenizer; the rules around it go into the manifest."""

from __future__ import annotations

from pathlib import Path

from vlp.deploy.runtime.manifest import TOKENIZER_NAME
from vlp.deploy.runtime.tokenize import ArtifactTokenizer
from vlp.system.atomic import atomic_write_text
from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer
from vlp.tokenizers.rules import TextRules

CHECKED = (  # each kind of tokenizer treats some of these specially
    "", "a photo of a dog.", "Two  dogs, and\ta CAT?", "naïve café — ½ 日本 😀", "don't <|endoftext|> [MASK] <pad> </s> a_b",
    "word " * 600,
)  # fmt: skip


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> TextRules:
    """Writes the file, and returns what the manifest needs beside it.  Raises UserError for a tokenizer that has not been trained,
    and for one whose ids the file would not give back."""
    backend = tokenizer.backend
    if backend is None:
        raise UserError(
            "the tokenizer of this checkpoint is not trained, so it cannot be exported: give tokenizer=PATH"
        )
    rules = tokenizer.rules
    atomic_write_text(folder / TOKENIZER_NAME, backend.to_str() + "\n")
    read = ArtifactTokenizer(folder / TOKENIZER_NAME, rules)
    if other := next((text for text in CHECKED if read.encode([text]) != tokenizer.encode([text])), None):
        name = type(tokenizer).__name__
        raise UserError(f"{name} cannot be exported: without vlp's own code its ids of {other[:80]!r} would be others")
    return rules
