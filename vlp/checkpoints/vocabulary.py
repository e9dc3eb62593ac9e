"""Which tokenizer belongs to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlp.build import ALLOWED_IN_FILES, build
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.system.errors import UserError
from vlp.system.json_files import read_json
from vlp.tokenizers.base import Tokenizer
from vlp.tokenizers.clip import ClipTokenizer
from vlp.tokenizers.wordpiece import WordPieceTokenizer

_NO_VOCABULARY = "this checkpoint holds no vocabulary: give tokenizer=PATH (a file or folder) to vlp.load"
_VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")


def find_tokenizer(checkpoint: Checkpoint, model: Any, given: str | Path | None) -> Tokenizer:
    """The argument, else that of the checkpoint, else files beside it, else CLIP's installed vocabulary."""
    if given is None and checkpoint.tokenizer_json is not None:
        return Tokenizer.from_json(checkpoint.tokenizer_json)
    beside = [checkpoint.vocabulary / name for name in _VOCABULARY_FILES] if checkpoint.vocabulary else []
    vocabulary = given or next((file.parent for file in beside if file.is_file()), None)
    if model.text is None and model.decoder is None:
        raise UserError("this checkpoint has no text tower, so it needs no tokenizer: it embeds images alone")
    text = model.part("decoder" if model.text is None else "text")
    context_length = int(text.context_length)
    node = checkpoint.config.get("tokenizer")
    if node and "vocabulary" not in node:  # the kind is known, only the vocabulary is missing
        if vocabulary is None:
            raise FileNotFoundError(_NO_VOCABULARY)
        return build({"context_length": context_length, **node, "vocabulary": str(vocabulary)}, allow=ALLOWED_IN_FILES)
    if vocabulary is None and model.part("text").vocabulary_size != 49408:
        raise FileNotFoundError(_NO_VOCABULARY)
    if vocabulary is not None and _is_wordpiece(Path(vocabulary)):
        tokenizer: Tokenizer = WordPieceTokenizer(vocabulary=vocabulary, context_length=context_length)
    else:
        tokenizer = ClipTokenizer(vocabulary=vocabulary, context_length=context_length)
    if tokenizer.size > model.part("text").vocabulary_size:
        raise UserError(
            f"the vocabulary has {tokenizer.size} tokens, but the checkpoint only {model.part('text').vocabulary_size}"
        )
    return tokenizer


def _is_wordpiece(path: Path) -> bool:
    tokenizer_file = path / "tokenizer.json" if path.is_dir() else path
    if tokenizer_file.suffix == ".json" and tokenizer_file.is_file():
        return read_json(tokenizer_file).get("model", {}).get("type") == "WordPiece"
    return (path / "vocab.txt").is_file() or path.name == "vocab.txt"
