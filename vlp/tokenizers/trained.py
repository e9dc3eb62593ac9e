"""Byte-level BPE trained on the run's own captions (Sennrich et al. 2016, arXiv 1508.07909): needs no file at all.

It fills exactly `size` ids, so a model can be built before it is trained: padding is 0, then start, the 256 bytes,
merges by falling frequency, reserved ids where the captions have too few repeated pairs, the mask, and the end token last,
where CLIP's pooling at the highest id finds it. Any text can be encoded, since every byte has an id. The result depends on
the captions alone, not on their order, and no caption can spell a special token.
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
            raise UserError(f"tokenizer.size is {size}; 256 bytes, padding, start, mask and end need at least 260")
        super().__init__(
            backend=None, size=size, context_length=context_length, start_id=1, end_id=size - 1, pad_id=0,
            mask_id=size - 2, truncate=truncate,
        )  # fmt: skip

    def train(self, texts: Iterable[str]) -> None:
        learner = tokenizers.Tokenizer(tokenizers.models.BPE())
        learner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        learner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
            ]
        )
        learner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.size - 2,
            min_frequency=2,  # a pair seen once is a word to spell, not to learn
            special_tokens=["<pad>", "<start>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        learner.train_from_iterator(texts, trainer)
        learned = json.loads(learner.to_str())["model"]
        ids = dict(learned["vocab"])
        ids.update({f"<reserved {index}>": index for index in range(len(ids), self.size - 2)})
        ids |= {"<mask>": self.size - 2, "<end>": self.end_id}
        # a new tokenizer around the model: in it `<pad>` and `<start>` are no added tokens that a caption could spell
        self.backend = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [tuple(pair) for pair in learned["merges"]]))
        self.backend.normalizer = learner.normalizer
        self.backend.pre_tokenizer = learner.pre_tokenizer
        self.backend.decoder = learner.decoder

    def _continues(self, token: str) -> bool:
        return not token.startswith("Ġ")  # byte-level spelling of the space before a word
