"""Masked language modelling with the image: predict the masked tokens of a caption from the others and the image.

Devlin et al., arXiv:1810.04805, §3.1 (15 % of the tokens; of these 80 % masked, 10 % random, 10 % unchanged); Li et al.,
arXiv:2107.07651, equations 2 and 7 (soft targets of the momentum model); Kim et al., arXiv:2102.03334, §3.3 (whole words).
What is masked is a function of the sample's seed and the token's position: the same on any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.models.features import flatten_captions, image_memory_per_text
from vlp.models.language_head import LanguageHead
from vlp.models.precision import apply_head
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, classification_loss, linear_warmup, position_within_image
from vlp.random import mix_rows, uniform
from vlp.structures import Batch, CrossAttentionCache, Features, Loss, Text, Tokens, require
from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the chosen tokens; the others stay unchanged
MAX_MASK_PROB = 0.9  # of the rarest tokens


def choose_masked_tokens(
    text: Text,
    seeds: Int[Tensor, " r"],
    special: Bool[Tensor, " v"],
    continuation: Bool[Tensor, " v"] | None,
    mask_prob: float | Float[Tensor, " v"],
) -> Bool[Tensor, "r t"]:
    """Which tokens are predicted: each with probability `mask_prob` (a tensor: one for each id), never a special one.
    continuation: ids that continue a word; with it all pieces of a word are chosen or none, as for its first piece."""
    numbers = uniform(mix_rows(seeds, 0), text.ids.shape[1])
    probs = mask_prob[text.ids] if isinstance(mask_prob, Tensor) else torch.full_like(numbers, mask_prob)
    if continuation is not None:
        starts_word = ~continuation[text.ids]
        numbers = numbers.gather(1, (starts_word.long().cumsum(1) - 1).clamp(min=0))
        positions = torch.arange(starts_word.shape[1], device=starts_word.device)
        first_piece = torch.where(starts_word, positions, 0).cummax(1).values
        probs = probs.gather(1, first_piece)
    return (numbers < probs) & text.mask & ~special[text.ids]


def rare_word_mask_probs(counts: Float[Tensor, " v"], mask_prob: float, exponent: float) -> Float[Tensor, " v"]:
    """For each token a probability ∝ count^-exponent, at most 0.9, so that a share `mask_prob` of all tokens is chosen.

    counts: of each token in the training captions. Mikolov et al., arXiv:1310.4546, §2.3, drop frequent words in the same way
    (exponent 1/2); stop words teach a masked model little about the image: Bitton et al., arXiv:2109.02040.
    """
    weight = counts.clamp(min=1).pow(-exponent)
    low, high = 0.0, float(MAX_MASK_PROB / weight.min())
    for _ in range(60):  # bisection for the factor
        middle = (low + high) / 2
        share = float((counts * (middle * weight).clamp(max=MAX_MASK_PROB)).sum() / counts.sum())
        low, high = (middle, high) if share < mask_prob else (low, middle)
    return (high * weight).clamp(max=MAX_MASK_PROB)


def corrupt_tokens(
    text: Text, chosen: Bool[Tensor, "r t"], seeds: Int[Tensor, " r"], mask_id: int, vocabulary_size: int
) -> Text:
    """Of the chosen tokens 80 % become the mask, 10 % a random id, and 10 % stay unchanged."""
    length = text.ids.shape[1]
    number, random_id = uniform(mix_rows(seeds, 1), length), uniform(mix_rows(seeds, 2), length) * vocabulary_size
    ids = torch.where(chosen & (number < MASKED_SHARE), mask_id, text.ids)
    replaced = chosen & (number >= MASKED_SHARE) & (number < MASKED_SHARE + RANDOM_SHARE)
    return Text(ids=torch.where(replaced, random_id.long(), ids), mask=text.mask)


class MLM(Objective):
    """width: of the fusion's states.  mask_prob: share of the tokens that are predicted.
    rare_word_exponent: r > 0 = a token is chosen in proportion to (its frequency in the training captions)^-r, so that words
    that describe the image are masked more often than articles.
    whole_words: all pieces of a word or none.  num_maskings: of each caption in a batch.  tied: the head's last map is the
    text tower's embedding (BERT, ALBEF).  distillation: α of the momentum model's soft targets, reached linearly over
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
            raise UserError(f"objectives.mlm.mask_prob={mask_prob}: give a share of masked tokens between 0 and 1")
        if rare_word_exponent < 0:
            raise UserError(
                f"objectives.mlm.rare_word_exponent={rare_word_exponent}: give 0 (all tokens alike) or "
                "more (rare tokens are chosen more often)"
            )
        self.mask_prob, self.rare_word_exponent = mask_prob, rare_word_exponent
        self.whole_words, self.num_maskings = whole_words, num_maskings
        self.mask_probs: Tensor  # of each id
        self.register_buffer("mask_probs", torch.full((vocabulary_size,), mask_prob), persistent=False)
        self.distillation, self.distillation_warmup = distillation, distillation_warmup
        self.uses: tuple[str, ...] = ("memory", "momentum.memory") if distillation else ("memory",)
        self.head = LanguageHead(
            width=width, vocabulary_size=vocabulary_size, activation=activation, norm_eps=norm_eps, tied=tied
        )
        self.vocabulary_size = vocabulary_size
        self.mask_id: int | None = None
        self.special: Tensor  # for each id whether it is a special token
        self.continuation: Tensor  # for each id whether it continues a word
        self.register_buffer("special", torch.zeros(vocabulary_size, dtype=torch.bool), persistent=False)
        self.register_buffer("continuation", torch.zeros(vocabulary_size, dtype=torch.bool), persistent=False)

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer | None, data: Any) -> None:
        if tokenizer is None or tokenizer.mask_id is None:
            raise UserError("mlm needs a tokenizer with a mask token: set tokenizer=trained or tokenizer=wordpiece")
        self.mask_id = tokenizer.mask_id
        self.special[[tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id]] = True
        if self.rare_word_exponent:
            counts = torch.zeros(len(self.mask_probs))
            for caption in data.train_captions():
                counts += torch.bincount(torch.tensor(tokenizer.encode([caption])[0]), minlength=len(counts))
            self.mask_probs.copy_(rare_word_mask_probs(counts, self.mask_prob, self.rare_word_exponent))
        if self.whole_words:
            self.continuation[: tokenizer.size] = tokenizer.continuation_flags().to(self.continuation.device)

    def logits(
        self, model: VisionLanguageModel, text: Text, memory: CrossAttentionCache | Tokens, chosen: Bool[Tensor, "r t"]
    ) -> Float[Tensor, "n v"]:
        """Of the chosen tokens, row by row; text i attends to row i of the memory."""
        return _masked_token_logits(model, self.head, text, memory, chosen)

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        assert features.memory is not None
        assert self.mask_id is not None, "call prepare with the tokenizer first"
        text, owner = flatten_captions(batch)
        seeds = mix_rows(batch.seed[owner], position_within_image(owner))
        memory = image_memory_per_text(features.memory, batch, owner)
        if self.num_maskings > 1:
            ids, mask = (repeat(rows, "r t -> (k r) t", k=self.num_maskings) for rows in (text.ids, text.mask))
            text = Text(ids=ids, mask=mask)
            seeds = torch.cat([mix_rows(seeds, index) for index in range(self.num_maskings)])
            owner = owner.repeat(self.num_maskings)
            memory = features.memory.select(owner)
        continuation = self.continuation if self.whole_words else None
        chosen = choose_masked_tokens(text, seeds, self.special, continuation, self.mask_probs)
        masked = corrupt_tokens(text, chosen, seeds, self.mask_id, self.vocabulary_size)
        return self.loss(model, features, masked, memory, chosen, text.ids[chosen], owner)

    def loss(
        self, model: VisionLanguageModel, features: Features, masked: Text, memory: CrossAttentionCache | Tokens,
        chosen: Bool[Tensor, "r t"], label: Int[Tensor, " n"], owner: Int[Tensor, " r"],
    ) -> Loss:  # fmt: skip
        """Of texts that are masked already: the mean over the chosen tokens of all ranks."""
        logits, soft_targets = self.logits(model, masked, memory, chosen), None
        if self.distillation:
            momentum = require(features.momentum)
            assert momentum.memory is not None
            with torch.no_grad():
                momentum_model, momentum_head = momentum.copy_of(model), momentum.copy_of(self.head)
                momentum_memory = momentum.memory.select(owner)
                soft_targets = _masked_token_logits(
                    momentum_model, momentum_head, masked, momentum_memory, chosen
                ).softmax(1)
        alpha = linear_warmup(self.distillation, features.step, self.distillation_warmup)
        return classification_loss(logits, label, soft_targets, alpha)


def _masked_token_logits(
    model: VisionLanguageModel,
    head: LanguageHead,
    text: Text,
    memory: CrossAttentionCache | Tokens,
    chosen: Bool[Tensor, "r t"],
) -> Float[Tensor, "n v"]:
    states = model.fuse(model.encode_text(text), memory).states[:, : text.ids.shape[1]]
    return apply_head(head, states[chosen], None if head.decoder is not None else _tied_embedding(model, head))


def _tied_embedding(model: VisionLanguageModel, head: LanguageHead) -> Float[Tensor, "v d"]:
    """The text tower's token embedding, which must have the shape of the head's last map."""
    weight = getattr(getattr(model.part("text"), "embedding", None), "weight", None)
    shape = (len(head.bias), head.transform.out_features)
    if weight is None or tuple(weight.shape) != shape:
        raise UserError(
            f"objectives.mlm.tied needs a text tower whose token embedding is {shape[0]} x {shape[1]}, as wide as the "
            "fusion: set objectives.mlm.tied=false"
        )
    return weight
