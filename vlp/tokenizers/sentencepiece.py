"""A SentencePiece model file (`spiece.model`) as a tokenizer of the Rust library, without the sentencepiece package.

Kudo and Richardson, arXiv:1808.06226. The file is a protobuf message; its fields are those of google/sentencepiece
src/sentencepiece_model.proto. Unigram models (Kudo, arXiv:1804.10959) are read, which T5, mT5, XLM-RoBERTa and SigLIP have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, normalizers, pre_tokenizers

from vlp.system.errors import UserError

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of the file
_UNKNOWN, _BYTE = 2, 6  # types of pieces
_SPACE = "▁"


def read_sentencepiece(path: Path) -> tokenizers.Tokenizer:
    """Raises UserError for a file that is no unigram model."""
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = [_read_piece(value) for number, value in fields if number == _PIECE and isinstance(value, bytes)]
        trainer, normalizer = (_settings(fields, number) for number in (_TRAINER, _NORMALIZER))
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} is damaged, or no SentencePiece model") from error
    unknown = next((index for index, (_, _, kind) in enumerate(pieces) if kind == _UNKNOWN), None)
    if unknown is None or trainer.get(3, 1) != 1:
        raise UserError(
            f"{path} is no unigram model of SentencePiece: save the tokenizer as tokenizer.json with transformers"
        )
    byte_fallback = any(kind == _BYTE for _, _, kind in pieces)
    vocabulary = [(piece, score) for piece, score, _ in pieces]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=unknown, byte_fallback=byte_fallback))
    charsmap = normalizer.get(2)
    steps: list[normalizers.Normalizer] = []
    if isinstance(charsmap, bytes) and charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    if normalizer.get(4, 1):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if normalizer.get(3, 1) else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    return backend


def _settings(fields: list[tuple[int, int | bytes]], number: int) -> dict[int, int | bytes]:
    parts = (content for part, content in fields if part == number and isinstance(content, bytes))
    return {key: value for content in parts for key, value in _fields(content)}


def _read_piece(content: bytes) -> tuple[str, float, int]:
    """Text, log-probability and type."""
    text, score, kind = "", 0.0, 1
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    return text, score, kind


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a protobuf message: integers as such, all others as their bytes."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        wire = key & 7
        if wire == 0:
            value, position = _varint(content, position)
            yield key >> 3, value
            continue
        if wire == 2:
            length, position = _varint(content, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise UserError(f"a field of wire type {wire}")
        if position + length > len(content):
            raise UserError("a field that is longer than the file")
        yield key >> 3, content[position : position + length]
        position += length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
