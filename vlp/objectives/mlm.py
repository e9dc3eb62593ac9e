"""Masked language modelling with the image in sight: predict the tokens that were taken out of a caption.

Devlin et al., arXiv:1810.04805, §3.1 (15 % of the tokens; of these 80 % masked, 10 % random, 10 % as they were); Li et al.,
arXiv:2107.07651, equations 2 and 7 (soft targets of the momentum copy); Kim et al., arXiv:2102.03334, §3.3 (whole words).
What is masked is a function of the sample's seed and the token's place: the same on any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.distributed import joint_mean
from vlp.models.features import caption_rows, of_texts
from vlp.models.language_head import LanguageHead
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, ramp, turns
from vlp.random import mix_rows, uniform
from vlp.structures import Batch, Features, Loss, Memory, Text, Tokens
from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer

MASKED, RANDOM = 0.8, 0.1  # shares of the chosen tokens; the rest stay as they are
MOST = 0.9  # of the occurrences of a token are chosen, however rare it is


def choose(
    text: Text,
    seeds: Int[Tensor, " r"],
    special: Bool[Tensor, " v"],
    continues: Bool[Tensor, " v"] | None,
    share: float | Float[Tensor, " v"],
) -> Bool[Tensor, "r t"]:
    """Which tokens are to be predicted: each with probability `share`, maybe its own, never a special one; with `continues`
    all pieces of a word or none, as its first piece has it."""
    numbers = uniform(mix_rows(seeds, 0), text.ids.shape[1])
    shares = share[text.ids] if isinstance(share, Tensor) else torch.full_like(numbers, share)
    if continues is not None:
        starts = ~continues[text.ids]
        numbers = numbers.gather(1, (starts.long().cumsum(1) - 1).clamp(min=0))
        first = torch.where(starts, torch.arange(starts.shape[1], device=starts.device), 0).cummax(1).values
        shares = shares.gather(1, first)
    return (numbers < shares) & text.mask & ~special[text.ids]


def rare_shares(counts: Float[Tensor, " v"], share: float, rarity: float) -> Float[Tensor, " v"]:
    """Of each token's own, ∝ its frequency^-rarity and at most 0.9, such that `share` of all tokens is chosen.

    Mikolov et al., arXiv:1310.4546, §2.3, leave frequent words out likewise (there 1/2); that stop words teach a masked model
    little of the image: Bitton et al., arXiv:2109.02040.
    """
    weight = counts.clamp(min=1).pow(-rarity)
    low, high = 0.0, float(MOST / weight.min())
    for _ in range(60):
        middle = (low + high) / 2
        chosen = float((counts * (middle * weight).clamp(max=MOST)).sum() / counts.sum())
        low, high = (middle, high) if chosen < share else (low, middle)
    return (high * weight).clamp(max=MOST)


def corrupt(
    text: Text, chosen: Bool[Tensor, "r t"], seeds: Int[Tensor, " r"], mask_id: int, vocabulary_size: int
) -> Text:
    length = text.ids.shape[1]
    kind, other = uniform(mix_rows(seeds, 1), length), uniform(mix_rows(seeds, 2), length)
    ids = torch.where(chosen & (kind < MASKED), mask_id, text.ids)
    replaced = chosen & (kind >= MASKED) & (kind < MASKED + RANDOM)
    return Text(ids=torch.where(replaced, (other * vocabulary_size).long(), ids), mask=text.mask)


class MLM(Objective):
    """width: of the fusion's states.  mask_prob: share of the tokens that are predicted.
    rare_word_exponent: r > 0 = a token is chosen in proportion to (its frequency in the training captions)^-r, so that words
    which the picture decides outnumber articles.
    whole_words: all pieces of a word or none.  num_maskings: of each caption in a batch.  tied: the head's last map is the
    text tower's embedding (BERT, ALBEF).  distillation: α of the momentum copy's soft targets, reached linearly over
    `distillation_warmup` steps.
    """

    requires = ("image", "caption")
    needs = ("vision", "text", "fusion")

    def __init__(
        self,
        *,
        width: int,
        vocabulary_size: int,
        mask_prob: float = 0.15,
        rare_word_exponent: float = 0.0,
        whole_words: bool = False,
        num_maskings: int = 1,
        tied: bool = True,
        activation: str = "gelu",
        norm_eps: float = 1e-12,
        distillation: float = 0.0,
        distillation_warmup: int = 0,
        weight: float | list[list[float]] = 1.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if not 0 < mask_prob < 1:
            raise UserError(f"objectives.mlm.mask_prob={mask_prob}: the share of masked tokens lies between 0 and 1")
        if rare_word_exponent < 0:
            raise UserError(
                f"objectives.mlm.rare_word_exponent={rare_word_exponent}: expected 0 (all tokens alike) or more (rare ones are "
                "preferred)"
            )
        self.mask_prob, self.rare_word_exponent = mask_prob, rare_word_exponent
        self.whole_words, self.num_maskings = whole_words, num_maskings
        self.shares: Tensor
        self.register_buffer("shares", torch.full((vocabulary_size,), mask_prob), persistent=False)
        self.distillation, self.distillation_warmup = distillation, distillation_warmup
        self.uses: tuple[str, ...] = ("memory", "momentum.memory") if distillation else ("memory",)
        self.head = LanguageHead(
            width=width, vocabulary_size=vocabulary_size, activation=activation, norm_eps=norm_eps, tied=tied
        )
        self.vocabulary_size = vocabulary_size
        self.mask_id: int | None = None
        self.special: Tensor
        self.continues: Tensor
        self.register_buffer("special", torch.zeros(vocabulary_size, dtype=torch.bool), persistent=False)
        self.register_buffer("continues", torch.zeros(vocabulary_size, dtype=torch.bool), persistent=False)

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer | None, data: Any) -> None:
        if tokenizer is None or tokenizer.mask_id is None:
            raise UserError("mlm needs a tokenizer with a mask token: set tokenizer=trained or tokenizer=wordpiece")
        self.mask_id = tokenizer.mask_id
        self.special[[tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id]] = True
        if self.rare_word_exponent:
            counts = torch.zeros(len(self.shares))
            for caption in data.train_captions():
                counts += torch.bincount(torch.tensor(tokenizer.encode([caption])[0]), minlength=len(counts))
            self.shares.copy_(rare_shares(counts, self.mask_prob, self.rare_word_exponent))
        if self.whole_words:
            self.continues[: tokenizer.size] = tokenizer.continues().to(self.continues.device)

    def logits(
        self, model: VisionLanguageModel, text: Text, memory: Memory | Tokens, chosen: Bool[Tensor, "r t"]
    ) -> Float[Tensor, "n v"]:
        """Of the chosen tokens, row by row, of texts of which row i looks at row i of the memory."""
        return _logits(model, self.head, text, memory, chosen)

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        assert features.memory is not None
        assert self.mask_id is not None, "call prepare with the tokenizer first"
        text, owner = caption_rows(batch)
        seeds = mix_rows(batch.seed[owner], turns(owner))
        memory = of_texts(features.memory, batch, owner)
        if self.num_maskings > 1:
            text = Text(ids=_again(text.ids, self.num_maskings), mask=_again(text.mask, self.num_maskings))
            seeds = torch.cat([mix_rows(seeds, turn) for turn in range(self.num_maskings)])
            owner = owner.repeat(self.num_maskings)
            memory = features.memory.select(owner)
        chosen = choose(text, seeds, self.special, self.continues if self.whole_words else None, self.shares)
        masked = corrupt(text, chosen, seeds, self.mask_id, self.vocabulary_size)
        return self.loss(model, features, masked, memory, chosen, text.ids[chosen], owner)

    def loss(
        self, model: VisionLanguageModel, features: Features, masked: Text, memory: Memory | Tokens,
        chosen: Bool[Tensor, "r t"], label: Int[Tensor, " n"], owner: Int[Tensor, " r"],
    ) -> Loss:  # fmt: skip
        """Of given masked texts: the mean over the chosen tokens of all ranks."""
        logits = self.logits(model, masked, memory, chosen)
        value = F.cross_entropy(logits, label, reduction="sum")
        alpha = ramp(self.distillation, features.step, self.distillation_warmup)
        if self.distillation:
            slow = features.momentum
            assert slow is not None
            assert slow.memory is not None
            with torch.no_grad():
                copy, head = slow.twin(model), slow.twin(self.head)
                soft = _logits(copy, head, masked, slow.memory.select(owner), chosen).softmax(1)
            value = (1 - alpha) * value - alpha * (logits.log_softmax(1) * soft).sum()
        right = (logits.detach().argmax(1) == label).to(value.dtype).sum()
        return Loss(value=joint_mean(value, len(label)), logs={"accuracy": 100 * joint_mean(right, len(label))})


def _logits(
    model: VisionLanguageModel, head: LanguageHead, text: Text, memory: Memory | Tokens, chosen: Bool[Tensor, "r t"]
) -> Float[Tensor, "n v"]:
    states = model.fuse(model.encode_text(text), memory).states[:, : text.ids.shape[1]]
    return head(states[chosen], None if head.decoder is not None else _embedding(model, head))


def _embedding(model: VisionLanguageModel, head: LanguageHead) -> Float[Tensor, "v d"]:
    weight = getattr(getattr(model.part("text"), "embedding", None), "weight", None)
    wanted = (len(head.bias), head.transform.out_features)
    if weight is None or tuple(weight.shape) != wanted:
        raise UserError(
            f"objectives.mlm.tied needs a text tower whose token embedding is {wanted[0]} x {wanted[1]}, as wide as the "
            "fusion: set objectives.mlm.tied=false"
        )
    return weight


def _again(rows: Tensor, count: int) -> Tensor:
    return repeat(rows, "r t -> (k r) t", k=count)
