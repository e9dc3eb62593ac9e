"""Image-text matching: does this text belong to this image? With hard negatives that the contrastive space finds similar.

Li et al., arXiv:2107.07651, §3.2; salesforce/ALBEF models/model_pretrain.py. For each text one image and for each image
one text is drawn with probability softmax(similarity) over all ranks, never one of the same image. ALBEF draws within
its own rank and adds nothing to guard against rows of zeros; here logarithms are drawn from (Gumbel-max), so no row
sums to zero, and the draw is a function of the sample's seed: the same on any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlp.distributed import fetch, gather, joint_mean, world_size
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.random import mix
from vlp.structures import Batch, Features, Loss, Memory, Tokens


def draw(
    similarity: Float[Tensor, "n m"], allowed: Bool[Tensor, "n m"], seeds: Sequence[int]
) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]:
    """One column a row, by softmax(similarity) over the allowed ones; and which rows have any."""
    noise = torch.stack(
        [torch.rand(similarity.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    gumbel = -(-noise.clamp(min=1e-20).log()).log().to(similarity)
    score = (similarity.detach() + gumbel).masked_fill(~allowed, -torch.inf)
    return score.argmax(1), allowed.any(1)


class ITM(Objective):
    """width: of the fusion's pooled state, to which the head's two classes (no match, match) are linear."""

    requires = ("image", "caption")
    needs = ("vision", "text", "projection", "fusion")
    uses = ("image", "text", "image_embed", "text_embed")
    in_batch = True

    def __init__(self, *, width: int, weight: float = 1.0, sources: Sequence[str] | None = None) -> None:
        super().__init__(weight=weight, sources=sources)
        self.head = nn.Linear(width, 2)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        image, text, owner = features.image, features.text, features.owner
        assert image is not None
        assert text is not None
        assert owner is not None
        assert features.image_embed is not None
        assert features.text_embed is not None
        text_id, seeds = batch.id[owner], batch.seed.tolist()
        turn = torch.arange(len(owner), device=owner.device) - torch.searchsorted(
            owner, owner
        )  # among its image's texts
        text_seeds = [mix(seeds[o], 1, t) for o, t in zip(owner.tolist(), turn.tolist(), strict=True)]
        with torch.no_grad():
            to_text = model.similarity(features.image_embed, gather(features.text_embed))
            to_image = model.similarity(gather(features.image_embed), features.text_embed).T
        hard_text, has_text = draw(
            to_text, batch.id[:, None] != gather(text_id)[None, :], [mix(seed, 0) for seed in seeds]
        )
        hard_image, has_image = draw(to_image, text_id[:, None] != gather(batch.id)[None, :], text_seeds)

        memory = model.remember(image)
        own = torch.arange(len(batch), device=owner.device)[has_text]
        if world_size() == 1:
            other: Tokens | Memory = memory.select(hard_image[has_image])
        else:
            other = model.remember(_fetch(image, hard_image[has_image]))
        pairs = (
            (text, memory.select(owner), 1),
            (text.select(has_image), other, 0),
            (_fetch(text, hard_text[has_text]), memory.select(own), 0),
        )
        logits, labels = [], []
        for words, pictures, match in pairs:
            if len(words.states):
                logits.append(self.head(model.fuse(words, pictures).pooled))
                labels.append(torch.full_like(logits[-1][:, 0], match, dtype=torch.int64))
        every, label = torch.cat(logits), torch.cat(labels)
        value = joint_mean(F.cross_entropy(every, label, reduction="sum"), len(label))
        right = (every.detach().argmax(1) == label).to(value.dtype).sum()
        return Loss(value=value, logs={"accuracy": 100 * joint_mean(right, len(label))})


def _fetch(tokens: Tokens, index: Int[Tensor, " n"]) -> Tokens:
    """Rows of all ranks' tokens; token sequences of the ranks may be of different lengths."""
    length = int(gather(torch.tensor([tokens.states.shape[1]], device=index.device)).max())
    pad = length - tokens.states.shape[1]
    states = fetch(F.pad(tokens.states, (0, 0, 0, pad)), index)
    mask = None if tokens.mask is None else fetch(F.pad(tokens.mask, (0, pad)).to(torch.uint8), index).bool()
    return Tokens(states=states, pooled=fetch(tokens.pooled, index), mask=mask)
