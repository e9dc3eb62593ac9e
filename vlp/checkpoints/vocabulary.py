"""Which tokenizer belongs to a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlp.build import ALLOWED_IN_FILES, build
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object
from vlp.tokenizers.base import Tokenizer
from vlp.tokenizers.clip import ClipTokenizer
from vlp.tokenizers.hugging_face import PIECES, HuggingFaceTokenizer
from vlp.tokenizers.wordpiece import WordPieceTokenizer

_NO_VOCABULARY = "this checkpoint holds no vocabulary: give tokenizer=PATH (a file or folder) to vlp.load"
_VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", *PIECES)
_IDS = ("start_id", "end_id", "pad_id", "mask_id", "answer_suffix")


def find_tokenizer(checkpoint: Checkpoint, model: Any, given: Tokenizer | str | Path | None) -> Tokenizer:
    """The argument, else that of the checkpoint, else files beside it, else CLIP's installed vocabulary.

    Raises FileNotFoundError without any of these, and UserError for an argument other than what the checkpoint was trained with.
    """
    stored = None if checkpoint.tokenizer_json is None else Tokenizer.from_json(checkpoint.tokenizer_json)
    if given is None and stored is not None:
        return stored
    found = given if isinstance(given, Tokenizer) else _read_tokenizer(checkpoint, model, given)
    if stored is not None and not same_ids(stored, found):
        raise UserError(
            f"this checkpoint was trained with its own {type(stored).__name__} of {stored.size} ids, to which its embeddings "
            f"belong; the given {type(found).__name__} of {found.size} ids is another one: leave tokenizer= out"
        )
    return found


def same_ids(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two trained tokenizers give every text the same ids."""
    first, second = (json.loads(tokenizer.to_json()) for tokenizer in (one, other))
    same_backend = all(first["backend"].get(part) == second["backend"].get(part) for part in ("model", "normalizer"))
    return same_backend and all(first[name] == second[name] for name in ("class", *_IDS))


def _read_tokenizer(checkpoint: Checkpoint, model: Any, given: str | Path | None) -> Tokenizer:
    beside = [checkpoint.vocabulary / name for name in _VOCABULARY_FILES] if checkpoint.vocabulary else []
    vocabulary = given or next((file.parent for file in beside if file.is_file()), None)
    text = model.decoder if model.text is None else model.text
    if text is None:
        raise UserError("this checkpoint has neither a text tower nor a decoder, so it takes no texts")
    context_length = int(text.context_length)
    node = checkpoint.config.get("tokenizer")
    if node and "vocabulary" not in node:  # the kind is known, only the vocabulary is missing
        if vocabulary is None:
            raise FileNotFoundError(_NO_VOCABULARY)
        return build({"context_length": context_length, **node, "vocabulary": str(vocabulary)}, allow=ALLOWED_IN_FILES)
    if vocabulary is None and text.vocabulary_size != 49408:
        raise FileNotFoundError(_NO_VOCABULARY)
    if vocabulary is not None and _is_wordpiece(Path(vocabulary)):
        tokenizer: Tokenizer = WordPieceTokenizer(vocabulary=vocabulary, context_length=context_length)
    elif vocabulary is not None and not _is_clips(Path(vocabulary)):
        tokenizer = HuggingFaceTokenizer(vocabulary=vocabulary, context_length=context_length)
    else:
        tokenizer = ClipTokenizer(vocabulary=vocabulary, context_length=context_length)
    if tokenizer.size > text.vocabulary_size:
        raise UserError(f"the vocabulary has {tokenizer.size} tokens, but the checkpoint only {text.vocabulary_size}")
    return tokenizer


def _is_wordpiece(path: Path) -> bool:
    tokenizer_file = path / "tokenizer.json" if path.is_dir() else path
    if tokenizer_file.suffix == ".json" and tokenizer_file.is_file():
        return read_json_object(tokenizer_file).get("model", {}).get("type") == "WordPiece"
    return (path / "vocab.txt").is_file() or path.name == "vocab.txt"


def _is_clips(path: Path) -> bool:
    """Byte-level pairs with a mark at the end of words, or OpenAI's and open_clip's file of merges."""
    tokenizer_file = path / "tokenizer.json" if path.is_dir() else path
    if tokenizer_file.suffix == ".json" and tokenizer_file.is_file():
        model = read_json_object(tokenizer_file).get("model", {})
        return model.get("type", "BPE") == "BPE" and any(token.endswith("</w>") for token in model.get("vocab", {}))
    return not (path.suffix == ".model" or (path.is_dir() and any((path / name).is_file() for name in PIECES)))
