"""Byte-level BPE trained on the captions of the run (Sennrich et al. 2016, arXiv 1508.07909): needs no vocabulary file.

It has exactly `size` ids, so a model can be built before it is trained: padding is 0, then start, the 256 bytes, merges by
decreasing frequency, reserved ids where the captions have too few repeated pairs, the mask, and the end token last, because
CLIP pools at the highest id. Any text can be encoded, since every byte has an id. The result depends only on the set of
captions, not on their order, and no text of a caption becomes a special token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import tokenizers
from tokenizers import Regex, decoders, normalizers, pre_tokenizers, trainers

from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer

WORDS = r"'[a-z]+|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class TrainedTokenizer(Tokenizer):
    def __init__(self, *, size: int = 1024, context_length: int = 77, truncate: bool = True) -> None:
        if size < 260:
            raise UserError(f"tokenizer.size={size}: give at least 260, for 256 bytes, padding, start, mask and end")
        super().__init__(
            backend=None, size=size, context_length=context_length, start_id=1, end_id=size - 1, pad_id=0,
            mask_id=size - 2, truncate=truncate,
        )  # fmt: skip

    def train(self, texts: Iterable[str]) -> None:
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
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
        return not token.startswith("Ġ")  # byte-level spelling of the space before a word
