"""Image-text matching: does this text belong to this image? With hard negatives, those most similar in the joint space.

Li et al., arXiv:2107.07651, §3.2; salesforce/ALBEF models/model_pretrain.py. For each text one image and for each image
one text is sampled with probability softmax(similarity) over all ranks, never one of the same image, nor one that the
data set marks as true of it (`Batch.also_true`), since the hardest negatives would often be true pairs. ALBEF samples
within one rank from probabilities, whose rows may sum to zero; here the Gumbel-max trick samples from logits, so no row
sums to zero, and the sample is a function of the sample's seed: the same on any number of processes. A model without a
joint space (ViLT) samples uniformly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlp.distributed import gather, world_size
from vlp.models.features import image_memory_per_text
from vlp.models.precision import apply_head
from vlp.models.tokens import fetch_tokens
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, classification_loss, linear_warmup, position_within_image
from vlp.random import mix_rows, uniform
from vlp.structures import Batch, CrossAttentionCache, Features, Loss, Text, Tokens, require


def sample_negatives(
    similarity: Float[Tensor, "n m"], allowed: Bool[Tensor, "n m"], seeds: Int[Tensor, " n"]
) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]:
    """For each row one of the allowed columns, with probability softmax(similarity); and which rows have any."""
    gumbel = -(-uniform(seeds, similarity.shape[1]).log()).log()
    score = (similarity.detach() + gumbel.to(similarity)).masked_fill(~allowed, -torch.inf)
    return score.argmax(1), allowed.any(1)


class ITM(Objective):
    """width: of the fusion's pooled state, to which the head's two classes (no match, match) are linear.
    contrastive: False = negatives are sampled uniformly.  momentum: similarities are those of images and texts with the
    momentum model's texts and images (ALBEF).  hardness: factor on the similarities, 1 in ALBEF; with a higher one the most
    similar are sampled more often.  hardness_warmup: steps over which it rises from 0 (uniform sampling), since a model
    trained from scratch learns nothing from hard negatives.
    """

    requires = ("image", "caption")
    in_batch = True

    def __init__(
        self,
        *,
        width: int,
        contrastive: bool = True,
        momentum: bool = False,
        hardness: float = 1.0,
        hardness_warmup: int = 0,
        weight: float | list[list[float]] = 1.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        self.contrastive, self.momentum = contrastive, momentum
        self.hardness, self.hardness_warmup = hardness, hardness_warmup
        self.needs: tuple[str, ...] = ("vision", "text", "fusion")
        self.uses: tuple[str, ...] = ("image", "text", "memory")
        if contrastive:
            self.needs += ("projection",)
            self.uses += ("image_embed", "text_embed")
        if contrastive and momentum:
            self.uses += ("momentum.image_embed", "momentum.text_embed")
        self.head = nn.Linear(width, 2)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        image, text, memory = require(features.image), require(features.text), features.memory
        assert memory is not None
        hard_text, has_text, hard_image, has_image = self.negatives(model, batch, features)
        if world_size() == 1:
            hard_memory: Tokens | CrossAttentionCache = memory.select(hard_image[has_image])
        else:
            hard_memory = model.project_memory(fetch_tokens(image, hard_image[has_image]))
        pairs = (
            (text, image_memory_per_text(memory, batch, require(features.owner)), 1),
            (text.select(has_image), hard_memory, 0),
            (fetch_tokens(text, hard_text[has_text]), memory.select(has_text), 0),
        )
        logits, labels = [], []
        for pair_text, pair_memory, match in pairs:
            if len(pair_text.states):  # a rank may have no negatives
                logits.append(self.logits(model, pair_text, pair_memory))
                labels.append(torch.full_like(logits[-1][:, 0], match, dtype=torch.int64))
        return classification_loss(torch.cat(logits), torch.cat(labels))

    def logits(
        self, model: VisionLanguageModel, text: Tokens, memory: CrossAttentionCache | Tokens
    ) -> Float[Tensor, "r 2"]:
        """(no match, match) of text i with image i, or with the only image."""
        return apply_head(self.head, model.fuse(text, memory).pooled)

    def pair_score(
        self, model: VisionLanguageModel, text: Tokens, memory: CrossAttentionCache | Tokens
    ) -> Float[Tensor, " r"]:
        """The logit of a match of text i with image i, or with the only image."""
        return self.logits(model, text, memory)[:, 1]

    def score(self, model: VisionLanguageModel, image: Tokens, text: Text) -> Float[Tensor, " b"]:
        """The logit of a match of text i for image i."""
        return self.pair_score(model, model.encode_text(text), model.project_memory(image))

    @torch.no_grad()
    def negatives(
        self, model: VisionLanguageModel, batch: Batch, features: Features
    ) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"], Int[Tensor, " r"], Bool[Tensor, " r"]]:
        """(text, has_text, image, has_image): for each image the index of a negative text among all ranks', for each text that
        of a negative image; and which images and texts have one."""
        owner = require(features.owner)
        text_id = batch.id[owner]
        image_ids, text_ids = gather(batch.id), gather(text_id)
        if self.contrastive:
            keys = require(features.momentum) if self.momentum else features
            image, text = require(features.image_embed), require(features.text_embed)
            hardness = linear_warmup(self.hardness, features.step, self.hardness_warmup)
            to_text = hardness * model.similarity(image, gather(require(keys.text_embed)))
            to_image = hardness * model.similarity(gather(require(keys.image_embed)), text).T
        else:
            to_text = torch.zeros(len(batch), len(text_ids), device=owner.device)
            to_image = torch.zeros(len(owner), len(image_ids), device=owner.device)
        false_text = batch.id[:, None] != text_ids[None, :]
        false_image = text_id[:, None] != image_ids[None, :]
        position = position_within_image(owner)
        if batch.also_true is not None:
            also_true = batch.also_true[owner, position]
            false_text &= ~_id_in_list(_gather_padded(also_true), batch.id).T
            false_image &= ~_id_in_list(also_true, image_ids)
        return (
            *sample_negatives(to_text, false_text, mix_rows(batch.seed, 0)),
            *sample_negatives(to_image, false_image, mix_rows(batch.seed[owner], 1, position)),
        )


def _gather_padded(lists: Int[Tensor, "r m"]) -> Int[Tensor, "n w"]:
    """The rows of all ranks, padded with -1 to the longest."""
    width = int(gather(torch.tensor([lists.shape[1]], device=lists.device)).max())
    return gather(F.pad(lists, (0, width - lists.shape[1]), value=-1))


def _id_in_list(lists: Int[Tensor, "r m"], ids: Int[Tensor, " n"]) -> Bool[Tensor, "r n"]:
    """Whether each id is in each list; ids are at least 0. The memory grows with r · n, not with r · m · n."""
    distinct, inverse = ids.unique(return_inverse=True)
    index = torch.searchsorted(distinct, lists).clamp(max=len(distinct) - 1)
    row, column = (distinct[index] == lists).nonzero(as_tuple=True)
    contains = torch.zeros(len(lists), len(distinct), dtype=torch.bool, device=ids.device)
    contains[row, index[row, column]] = True
    return contains[:, inverse]
