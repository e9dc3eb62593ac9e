"""What CLIP does to a text before and around its BPE, without torch (openai/CLIP clip/simple_tokenizer.py).

Text is repaired (ftfy), HTML-unescaped twice, its white space normalised, and lower-cased. The special tokens are not added
tokens of the backend, because the original recognises `<|endoftext|>` only outside a run of punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vlp.tokenizers.cleaning import open_clip_lower

START, END = "<|startoftext|>", "<|endoftext|>"
_SPECIALS = re.compile(r"(?<![^\s\w]|_)((?:<\|startoftext\|>|<\|endoftext\|>)+)")


def encode_clip(
    texts: Sequence[str], split: Callable[[Sequence[str]], list[list[int]]], *, start_id: int, end_id: int
) -> list[list[int]]:
    """Ids of each text, in which the special tokens may be written out.  split: the BPE alone.  Raises ModuleNotFoundError without
    ftfy, for texts that it may have to repair."""
    cleaned = [open_clip_lower(text) for text in texts]
    rows = split(cleaned)
    return [
        _encode_specials(text, split, start_id, end_id) if "<|" in text else row
        for text, row in zip(cleaned, rows, strict=True)
    ]


def _encode_specials(
    text: str, split: Callable[[Sequence[str]], list[list[int]]], start_id: int, end_id: int
) -> list[int]:
    ids: list[int] = []
    for index, part in enumerate(_SPECIALS.split(text)):
        if index % 2:  # a run of special tokens
            ids += [start_id if "start" in name else end_id for name in re.findall(r"<\|\w+\|>", part)]
        else:
            ids += split([part])[0]
    return ids
