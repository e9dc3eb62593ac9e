"""The tokenizer of a Hugging Face folder, whatever its kind: `tokenizer.json`, or a SentencePiece `spiece.model`.

Which tokens begin and end a text is what the file's own post-processor adds; SigLIP has an end token alone. CLIP's and BERT's
have their own classes, which need less than such a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers

from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object
from vlp.tokenizers.base import Tokenizer, find_vocabulary
from vlp.tokenizers.sentencepiece import read_sentencepiece

PIECES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
FILES = ("tokenizer.json", "tokenizer_config.json", *PIECES)


class HuggingFaceTokenizer(Tokenizer):
    """vocabulary: a folder, a tokenizer.json, a SentencePiece model or a hub name.  cleaning: see `Tokenizer`; None = that of the
    folder's tokenizer class ("siglip"), if any."""

    def __init__(
        self, *, vocabulary: str | Path, context_length: int = 77, truncate: bool = True, cleaning: str | None = None
    ) -> None:
        path = find_vocabulary(vocabulary, FILES)
        folder = path if path.is_dir() else path.parent
        settings = (
            read_json_object(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
        )
        siglip = settings.get("tokenizer_class") == "SiglipTokenizer"
        file = _vocabulary_file(path, prefer_pieces=siglip)
        if file.suffix == ".json":
            backend = tokenizers.Tokenizer.from_file(str(file))
            backend.no_padding()
            backend.no_truncation()
            start, end = _added_ids(backend, file)
        else:
            backend, start = read_sentencepiece(file), None
            end = _token_id(backend, settings, "eos_token", ("</s>",))
        pad = _token_id(backend, settings, "pad_token", ("<pad>", "[PAD]", "</s>"))
        if pad is None:
            raise UserError(f"{file} names no padding token: set pad_token in a tokenizer_config.json beside it")
        mask = _token_id(backend, settings, "mask_token", ("[MASK]", "<mask>"))
        if siglip and cleaning is None:
            cleaning = "siglip"
        super().__init__(
            backend=backend, size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
            context_length=context_length, start_id=pad if start is None else start, end_id=pad if end is None else end,
            pad_id=pad, mask_id=mask, truncate=truncate, add_start=start is not None, add_end=end is not None,
            cleaning=cleaning,
        )  # fmt: skip

    def _is_continuation(self, token: str) -> bool:
        """By the mark that the file's kind of vocabulary has: of a space before a word, or WordPiece's."""
        vocabulary = self._require_backend().get_vocab(with_added_tokens=False)
        mark = next((mark for mark in "▁Ġ" if any(piece.startswith(mark) for piece in vocabulary)), None)
        return super()._is_continuation(token) if mark is None else not token.startswith(mark)


def _vocabulary_file(path: Path, *, prefer_pieces: bool) -> Path:
    if path.is_file():
        return path
    names = (*PIECES, "tokenizer.json") if prefer_pieces else ("tokenizer.json", *PIECES)
    file = next((path / name for name in names if (path / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{path} has none of {', '.join(names)}")
    return file


def _added_ids(backend: tokenizers.Tokenizer, file: Path) -> tuple[int | None, int | None]:
    """Of the tokens that the post-processor puts before and after a text."""
    encoding = backend.encode("a")
    first = encoding.special_tokens_mask.index(0) if 0 in encoding.special_tokens_mask else len(encoding.ids)
    body = len(encoding.ids) - sum(encoding.special_tokens_mask)
    start, end = encoding.ids[:first], encoding.ids[first + body :]
    if len(start) > 1 or len(end) > 1:
        raise UserError(
            f"{file} puts {len(start)} tokens before a text and {len(end)} after it: vlp knows at most one each"
        )
    return start[0] if start else None, end[0] if end else None


def _token_id(backend: tokenizers.Tokenizer, settings: dict[str, Any], role: str, usual: tuple[str, ...]) -> int | None:
    """Of the token that the settings name, else of the first usual one that there is."""
    named = settings.get(role)
    named = named.get("content") if isinstance(named, dict) else named
    ids = (backend.token_to_id(token) for token in ((named,) if named else usual))
    return next((index for index in ids if index is not None), None)
