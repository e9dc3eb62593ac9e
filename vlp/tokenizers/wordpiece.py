"""BERT's WordPiece from a `vocab.txt`, a Hugging Face folder or a hub name (Devlin et al. 2018, arXiv 1810.04805).

Special tokens are identified by name and have the ids of the file. Whether text is lower-cased is read from the folder's
tokenizer_config.json; without one, it is where the vocabulary has no upper-case word.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers

from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object
from vlp.tokenizers.base import Tokenizer, find_vocabulary, read_vocabulary_lines

FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json")


class WordPieceTokenizer(Tokenizer):
    """lower_case: None = read from the vocabulary.  add_end, cleaning, answer_suffix: see `Tokenizer`.
    extra_tokens: special tokens whose ids follow those of the vocabulary (BLIP: "[DEC]", "[ENC]").
    """

    def __init__(
        self, *, vocabulary: str | Path, lower_case: bool | None = None, context_length: int = 77, truncate: bool = True,
        add_end: bool = True, cleaning: str | None = None, extra_tokens: Sequence[str] = (),
        answer_suffix: str | None = None,
    ) -> None:  # fmt: skip
        path = find_vocabulary(vocabulary, FILES)
        ids, options = _read_vocabulary(path)
        for token in extra_tokens:
            ids.setdefault(token, max(ids.values()) + 1)
        roles = ("cls", "sep", "pad", "unk")
        names = {role: _token_text(options.get(f"{role}_token", f"[{role.upper()}]")) for role in roles}
        missing = [name for name in names.values() if name not in ids]
        if missing:
            raise UserError(f"{path} is not BERT's vocabulary: it has no {missing[0]}; set tokenizer.vocabulary")
        if lower_case is None:
            ordinary = [token for token in ids if not (token.startswith("[") and token.endswith("]"))]
            lower_case = options.get("do_lower_case", not any(token != token.lower() for token in ordinary))
        backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token=names["unk"]))
        backend.normalizer = normalizers.BertNormalizer(
            lowercase=bool(lower_case),
            strip_accents=options.get("strip_accents"),
            handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        mask = _token_text(options.get("mask_token", "[MASK]"))
        specials = [*names.values(), mask, *extra_tokens]
        backend.add_special_tokens([AddedToken(name, normalized=False) for name in specials if name in ids])
        super().__init__(
            backend=backend, size=max(ids.values()) + 1, context_length=context_length, start_id=ids[names["cls"]],
            end_id=ids[names["sep"]], pad_id=ids[names["pad"]], mask_id=ids.get(mask), truncate=truncate,
            add_end=add_end, cleaning=cleaning, answer_suffix=answer_suffix,
        )  # fmt: skip


def _token_text(token: Any) -> str:
    """Of a token as tokenizer_config.json writes it, a string or a mapping."""
    return token["content"] if isinstance(token, dict) else str(token)


def _read_vocabulary(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Token ids, and the options of the tokenizer_config.json beside them (empty without one)."""
    folder = path if path.is_dir() else path.parent
    options_file = folder / "tokenizer_config.json"
    options = read_json_object(options_file) if options_file.is_file() else {}
    vocabulary_file = path / "vocab.txt" if path.is_dir() else path
    if vocabulary_file.suffix == ".txt" and vocabulary_file.is_file():
        tokens = read_vocabulary_lines(vocabulary_file)
        ids = {token: index for index, token in enumerate(tokens)}
        if repeated := [f"{token!r}" for token, count in Counter(tokens).items() if count > 1]:
            message = (
                f"{vocabulary_file} has {', '.join(repeated[:5])} on several lines; the last counts, as in transformers"
            )
            warnings.warn(message, stacklevel=3)
        return ids, options
    tokenizer_file = path / "tokenizer.json" if path.is_dir() else path
    if not tokenizer_file.is_file():
        raise FileNotFoundError(f"{path} has neither vocab.txt nor tokenizer.json")
    content = read_json_object(tokenizer_file)
    if content.get("model", {}).get("type") != "WordPiece":
        raise UserError(f"{tokenizer_file} has no WordPiece vocabulary, so it is not BERT's: set tokenizer.vocabulary")
    normalizer = content.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        options = {"do_lower_case": normalizer["lowercase"], "strip_accents": normalizer["strip_accents"], **options}
    added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    return {**content["model"]["vocab"], **added}, options
