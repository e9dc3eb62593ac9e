"""Image-text matching: does this text belong to this image? With hard negatives that the contrastive space finds similar.

Li et al., arXiv:2107.07651, §3.2; salesforce/ALBEF models/model_pretrain.py. For each text one image and for each image
one text is drawn with probability softmax(similarity) over all ranks, never one of the same image, nor one that the
data know to be true of it (`Batch.also_true`): the hardest negatives would else often be right pairs. ALBEF draws within
its own rank and adds nothing to guard against rows of zeros; here logarithms are drawn from (Gumbel-max), so no row
sums to zero, and the draw is a function of the sample's seed: the same on any number of processes. A model without a
contrastive space (ViLT) draws uniformly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlp.distributed import gather, joint_mean, world_size
from vlp.models.features import of_texts
from vlp.models.tokens import fetch_tokens
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, ramp, turns
from vlp.random import mix_rows, uniform
from vlp.structures import Batch, Features, Loss, Memory, Tokens


def draw(
    similarity: Float[Tensor, "n m"], allowed: Bool[Tensor, "n m"], seeds: Int[Tensor, " n"]
) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]:
    """One column a row, by softmax(similarity) over the allowed ones; and which rows have any."""
    gumbel = -(-uniform(seeds, similarity.shape[1]).log()).log()
    score = (similarity.detach() + gumbel.to(similarity)).masked_fill(~allowed, -torch.inf)
    return score.argmax(1), allowed.any(1)


class ITM(Objective):
    """width: of the fusion's pooled state, to which the head's two classes (no match, match) are linear.
    contrastive: False = negatives are drawn uniformly.  momentum: similarities are those of images and texts with the
    momentum copy's texts and images (ALBEF).  hardness: what the similarities are multiplied by, 1 in ALBEF; the more, the
    nearer is the draw to the most similar.  hardness_warmup: steps over which it rises from 0, where negatives are drawn
    uniformly; a model from nothing learns nothing from hard ones.
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
        image, text, memory, owner = features.image, features.text, features.memory, features.owner
        assert image is not None
        assert text is not None
        assert memory is not None
        assert owner is not None
        hard_text, has_text, hard_image, has_image = self.negatives(model, batch, features)
        if world_size() == 1:
            other: Tokens | Memory = memory.select(hard_image[has_image])
        else:
            other = model.remember(fetch_tokens(image, hard_image[has_image]))
        pairs = (
            (text, of_texts(memory, batch, owner), 1),
            (text.select(has_image), other, 0),
            (fetch_tokens(text, hard_text[has_text]), memory.select(has_text), 0),
        )
        logits, labels = [], []
        for words, pictures, match in pairs:
            if len(words.states):  # a rank may have none of a kind
                logits.append(self.logits(model, words, pictures))
                labels.append(torch.full_like(logits[-1][:, 0], match, dtype=torch.int64))
        every, label = torch.cat(logits), torch.cat(labels)
        value = joint_mean(F.cross_entropy(every, label, reduction="sum"), len(label))
        right = (every.detach().argmax(1) == label).to(value.dtype).sum()
        return Loss(value=value, logs={"accuracy": 100 * joint_mean(right, len(label))})

    def logits(self, model: VisionLanguageModel, text: Tokens, memory: Memory | Tokens) -> Float[Tensor, "r 2"]:
        """No match, match of row i of the texts with row i of the images, or with the one image that there is."""
        return self.head(model.fuse(text, memory).pooled)

    def score(self, model: VisionLanguageModel, text: Tokens, memory: Memory | Tokens) -> Float[Tensor, " r"]:
        """The logit of a match."""
        return self.logits(model, text, memory)[:, 1]

    @torch.no_grad()
    def negatives(
        self, model: VisionLanguageModel, batch: Batch, features: Features
    ) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"], Int[Tensor, " r"], Bool[Tensor, " r"]]:
        """A text of all ranks for each image, an image for each text, and which of them have any."""
        owner = features.owner
        assert owner is not None
        text_id = batch.id[owner]
        image_ids, text_ids = gather(batch.id), gather(text_id)
        if self.contrastive:
            keys = features.momentum if self.momentum else features
            assert keys is not None
            assert keys.image_embed is not None
            assert keys.text_embed is not None
            assert features.image_embed is not None
            assert features.text_embed is not None
            hardness = ramp(self.hardness, features.step, self.hardness_warmup)
            to_text = hardness * model.similarity(features.image_embed, gather(keys.text_embed))
            to_image = hardness * model.similarity(gather(keys.image_embed), features.text_embed).T
        else:
            to_text = torch.zeros(len(batch), len(text_ids), device=owner.device)
            to_image = torch.zeros(len(owner), len(image_ids), device=owner.device)
        false_text = batch.id[:, None] != text_ids[None, :]
        false_image = text_id[:, None] != image_ids[None, :]
        if batch.also_true is not None:
            known = batch.also_true[owner, turns(owner)]
            false_text &= ~_among(_gather_lists(known), batch.id).T
            false_image &= ~_among(known, image_ids)
        return (
            *draw(to_text, false_text, mix_rows(batch.seed, 0)),
            *draw(to_image, false_image, mix_rows(batch.seed[owner], 1, turns(owner))),
        )


def _gather_lists(lists: Int[Tensor, "r m"]) -> Int[Tensor, "n w"]:
    """Of all ranks, whose lists may be of different lengths."""
    width = int(gather(torch.tensor([lists.shape[1]], device=lists.device)).max())
    return gather(F.pad(lists, (0, width - lists.shape[1]), value=-1))


def _among(lists: Int[Tensor, "r m"], ids: Int[Tensor, " n"]) -> Bool[Tensor, "r n"]:
    """Whether each id is in each list; ids are at least 0."""
    distinct, place = ids.unique(return_inverse=True)
    found = torch.searchsorted(distinct, lists).clamp(max=len(distinct) - 1)
    row, column = (distinct[found] == lists).nonzero(as_tuple=True)
    among = torch.zeros(len(lists), len(distinct), dtype=torch.bool, device=ids.device)
    among[row, found[row, column]] = True
    return among[:, place]
