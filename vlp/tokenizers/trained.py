"""Byte-level BPE trained on the captions of the run (Sennrich et al. 2016, arXiv 1508.07909): needs no vocabulary file.

It has exactly `size` ids, so a model can be built before it is trained: padding is 0, then start, the 256 bytes, merges by
decreasing frequency, reserved ids where the captions have too few repeated pairs, the mask, and the end token last, because
CLIP pools at the highest id. Any text can be encoded, since every byte has an id. The result depends only on the set of
captions, not on their order, and no text of a caption becomes a special token.

By default texts are compared: lower case, and each word and sign by itself, so that "dog." has the word "dog"; decoding puts a
space before each. For texts that are written, as translations are, `lowercase=false` and `keep_spaces=true`: what is decoded
then is the text that was encoded, but for NFKC's forms of letters and runs of white space.
"""

from __future__ import annotations

import functools
import json
import string
from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, normalizers, pre_tokenizers, trainers

from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer

# "[v]" in place of a word that is left out of a text is a word (vlp/data/colour_words.py)
WORDS = r"\[v\]|'[a-z]+|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
SPACED_WORDS = r" ?\[v\]|'[a-z]+| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+"  # a space belongs to the word after it


class TrainedTokenizer(Tokenizer):
    """lowercase: whether upper case is lost.  keep_spaces: whether a space belongs to its word, so that decoding restores it."""

    def __init__(
        self,
        *,
        size: int = 1024,
        context_length: int = 77,
        truncate: bool = True,
        lowercase: bool = True,
        keep_spaces: bool = False,
    ) -> None:
        if size < 260:
            raise UserError(f"tokenizer.size={size}: give at least 260, for 256 bytes, padding, start, mask and end")
        super().__init__(
            backend=None, size=size, context_length=context_length, start_id=1, end_id=size - 1, pad_id=0,
            mask_id=size - 2, truncate=truncate,
        )  # fmt: skip
        self.lowercase, self.keep_spaces = lowercase, keep_spaces

    def train(self, texts: Iterable[str]) -> None:
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        steps: list[Any] = [normalizers.NFKC()] + ([normalizers.Lowercase()] if self.lowercase else [])
        if self.keep_spaces:  # the first word is spelled as any other one
            steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Prepend(" ")]
        bpe.normalizer = normalizers.Sequence(steps)
        words = SPACED_WORDS if self.keep_spaces else WORDS
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=not self.keep_spaces, use_regex=False),
            ]
        )
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.size - 2,
            min_frequency=2,  # a pair that occurs once is not merged
            special_tokens=["<pad>", "<start>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        model = json.loads(bpe.to_str())["model"]
        ids = dict(model["vocab"])
        ids.update({f"<reserved {index}>": index for index in range(len(ids), self.size - 2)})
        ids |= {"<mask>": self.size - 2, "<end>": self.end_id}
        # a new tokenizer with the model: `<pad>` and `<start>` are not added tokens of it, which captions could contain
        self.backend = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [tuple(pair) for pair in model["merges"]]))
        self.backend.normalizer = bpe.normalizer
        self.backend.pre_tokenizer = bpe.pre_tokenizer
        self.backend.decoder = bpe.decoder

    def _is_continuation(self, token: str) -> bool:
        if token.startswith("Ġ"):  # byte-level spelling of the space before a word
            return False
        return not self._keeps_spaces or token[0] not in string.punctuation  # a sign follows a word without a space

    @functools.cached_property
    def _keeps_spaces(self) -> bool:
        """Also of a tokenizer that was read from a checkpoint."""
        normalizer = json.loads(self._require_backend().to_str())["normalizer"]
        return any(step["type"] == "Prepend" for step in normalizer["normalizers"])
