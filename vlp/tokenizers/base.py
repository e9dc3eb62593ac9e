"""What a tokenizer is: strings → `Text`, padded to the longest of the batch and never longer than `context_length`.

The Rust `tokenizers` library splits texts into ids; start and end tokens, truncation and padding are those of
`vlp.tokenizers.rules` for all kinds.
`to_json` contains the complete tokenizer, so that a checkpoint needs no vocabulary file.
"""

from __future__ import annotations

import gzip
import importlib
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import tokenizers
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vlp.structures import Text
from vlp.system.errors import UserError
from vlp.tokenizers.rules import TextRules, split

MASK = "[MASK]"


class Tokenizer:
    """size: number of ids, known before training.  The others: see `TextRules`."""

    encoding: str | None = None  # see `TextRules`

    def __init__(
        self, *, backend: tokenizers.Tokenizer | None, size: int, context_length: int,
        start_id: int, end_id: int, pad_id: int, mask_id: int | None = None, truncate: bool = True, add_end: bool = True,
        add_start: bool = True, cleaning: str | None = None, answer_suffix: str | None = None,
    ) -> None:  # fmt: skip
        self.backend = backend
        self.size = size
        self.context_length = context_length
        self.start_id, self.end_id, self.pad_id, self.mask_id = start_id, end_id, pad_id, mask_id
        self.truncate, self.add_start, self.add_end, self.cleaning = truncate, add_start, add_end, cleaning
        self.answer_suffix = answer_suffix
        _ = self.rules  # checks them

    @property
    def rules(self) -> TextRules:
        """How ids become rows; the same for every tokenizer. Raises UserError for settings that no tokenizer can have."""
        names = (field.name for field in fields(TextRules))
        return TextRules(**{name: getattr(self, name) for name in names})

    @property
    def trained(self) -> bool:
        return self.backend is not None

    def train(self, texts: Iterable[str]) -> None:
        raise TypeError(f"{type(self).__name__} has a fixed vocabulary and cannot be trained; use tokenizer=trained")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without start, end or padding, however long."""
        return split(self._require_backend(), texts)

    def __call__(self, texts: Sequence[str], *, kind: str = "caption") -> Text:
        """kind: "caption", "question" or "answer"; an answer is not cleaned and always gets the end token (or its suffix), as
        it is to be generated."""
        return self.join_rows(self.rules.encode(texts, self.encode, kind=kind))

    def encode_masked(self, texts: Sequence[str]) -> tuple[Text, Bool[Tensor, "b t"]]:
        """Captions with [MASK] in place of tokens; and at which positions the masks are."""
        if self.mask_id is None:
            raise UserError(f"{type(self).__name__} has no mask token: use tokenizer=trained or tokenizer=wordpiece")
        rows, rules = [], self.rules
        for text in texts:
            if MASK not in text:
                raise UserError(f"{text[:80]!r} has no {MASK}: write it in place of each token to predict")
            pieces = self.encode([rules.clean(part, "caption") for part in text.split(MASK)])
            rows.append([*pieces[0], *(token for piece in pieces[1:] for token in (self.mask_id, *piece))])
        padded = self.join_rows(rules.complete(rows, texts, end=self.add_end))
        chosen = (padded.ids == self.mask_id) & padded.mask
        truncated = next((t for t, row in zip(texts, chosen, strict=True) if int(row.sum()) < t.count(MASK)), None)
        if truncated is not None:
            raise UserError(f"a {MASK} is beyond context_length={self.context_length}: shorten {truncated[:80]!r}")
        return padded, chosen

    def join_rows(self, rows: Sequence[Sequence[int]]) -> Text:
        """Complete rows of ids, with padding to the longest."""
        ids, mask = self.rules.pad(rows)
        return Text(ids=torch.from_numpy(ids), mask=torch.from_numpy(mask))

    def decode_with_specials(self, ids: Sequence[int]) -> str:
        """The text of all ids, special tokens included."""
        return self._require_backend().decode(list(ids), skip_special_tokens=False).strip()

    def decode(self, ids: Sequence[int] | Int[Tensor, " t"]) -> str:
        """The text between the start token (if there is one) and the first end token, as the tokenizer normalises it."""
        return self.decode_with_specials(self.rules.body([int(i) for i in ids]))

    def continuation_flags(self) -> Bool[Tensor, " size"]:
        """True for the ids that continue the word of the token before them; start, end, padding and mask never do."""
        vocabulary = self._require_backend().get_vocab(with_added_tokens=True)
        flags = torch.zeros(self.size, dtype=torch.bool)
        flags[[index for token, index in vocabulary.items() if self._is_continuation(token)]] = True
        flags[[i for i in (self.start_id, self.end_id, self.pad_id, self.mask_id) if i is not None]] = False
        return flags

    def _is_continuation(self, token: str) -> bool:
        """By WordPiece's mark; byte-level vocabularies mark the first piece of a word instead."""
        return token.startswith("##")

    def to_json(self) -> str:
        backend = json.loads(self._require_backend().to_str())
        names = (
            "size",
            "context_length",
            "start_id",
            "end_id",
            "pad_id",
            "mask_id",
            "truncate",
            "add_end",
            "add_start",
            "cleaning",
        )
        kind = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        return json.dumps(
            {"class": kind, **{name: getattr(self, name) for name in (*names, "answer_suffix")}, "backend": backend}
        )

    @staticmethod
    def from_json(text: str) -> Tokenizer:
        """The tokenizer that `to_json` wrote, of the class named there, which must be one of vlp.tokenizers."""
        fields = json.loads(text)
        kind = fields.pop("class")
        cls: Any = None
        if re.fullmatch(r"[a-z_]+\.[A-Za-z]+", kind):
            module, _, name = kind.partition(".")
            cls = getattr(importlib.import_module(f"vlp.tokenizers.{module}"), name)
        if not (isinstance(cls, type) and issubclass(cls, Tokenizer)):
            raise UserError(f"{kind!r} is not a tokenizer of vlp.tokenizers")
        tokenizer = cls.__new__(cls)  # without the constructor, which would search for the vocabulary file again
        backend = tokenizers.Tokenizer.from_str(json.dumps(fields.pop("backend")))
        Tokenizer.__init__(tokenizer, backend=backend, **fields)
        return tokenizer

    def _require_backend(self) -> tokenizers.Tokenizer:
        if self.backend is None:
            raise UserError("this tokenizer is not trained: call train(captions) first, or load it from a checkpoint")
        return self.backend


def read_vocabulary_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, also compressed.  Raises UserError for one that is no such text or cut off."""
    data = path.read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":  # of gzip, whatever the name is
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be decompressed ({error}); download or copy the vocabulary again") from error
    except UnicodeDecodeError as error:
        message = f"{path}: byte {error.start} is not UTF-8; download the vocabulary again, or convert it to UTF-8"
        raise UserError(message) from error
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def find_vocabulary(vocabulary: str | Path, files: Sequence[str]) -> Path:
    """A local file or folder, or the folder of `owner/name` on the Hugging Face hub, of which only `files` are downloaded."""
    path = Path(vocabulary).expanduser()
    if path.exists():
        return path
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(vocabulary)) or path.suffix in (".txt", ".gz", ".json"):
        raise FileNotFoundError(f"no vocabulary at {vocabulary}; set tokenizer.vocabulary to a file, folder or name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(vocabulary), allow_patterns=list(files)))
    except Exception as error:  # the hub raises many kinds, and all mean that the vocabulary is not available
        raise FileNotFoundError(
            f"vocabulary {vocabulary!r} is neither on this machine nor on the hub ({type(error).__name__}); "
            "set tokenizer.vocabulary to a local file or folder"
        ) from error
