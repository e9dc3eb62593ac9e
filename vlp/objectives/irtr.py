"""ViLT's fine-tuning for retrieval: each image's own text against texts of other images, one score a pair.

Kim et al., arXiv:2102.03334, §4.2; dandelin/ViLT vilt/modules/objectives.py `compute_irtr`: cross-entropy over the own text
and 15 others. The original draws these from the whole data set, where a caption of the same image may be among them; here
they are texts of other images of the batch of all ranks, by the text's seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlp.distributed import gather, joint_mean
from vlp.models.features import of_texts
from vlp.models.tokens import fetch_tokens
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, turns
from vlp.random import mix_rows, uniform
from vlp.structures import Batch, Features, Loss, Memory, Tokens
from vlp.system.errors import UserError


class IRTR(Objective):
    """width: of the fusion's pooled state, to which the score is linear.  negatives: texts of other images for each text."""

    requires = ("image", "caption")
    needs = ("vision", "text", "fusion")
    uses = ("text", "memory")
    in_batch = True

    def __init__(
        self,
        *,
        width: int,
        negatives: int = 15,
        weight: float | list[list[float]] = 1.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if negatives < 1:
            raise UserError(f"objectives.irtr.negatives={negatives}: a text needs others to be ranked against")
        self.negatives = negatives
        self.head = nn.Linear(width, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def score(self, model: VisionLanguageModel, text: Tokens, memory: Memory | Tokens) -> Float[Tensor, " r"]:
        """Logit of row i of the texts for row i of the images; higher fits better."""
        return self.head(model.fuse(text, memory).pooled)[:, 0]

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        text, memory, owner = features.text, features.memory, features.owner
        assert text is not None
        assert memory is not None
        assert owner is not None
        index, allowed = self._others(batch, owner)
        wanted = min(self.negatives, index.shape[1])
        images = of_texts(memory, batch, owner)
        columns = [self.score(model, text, images)]
        columns += [self.score(model, fetch_tokens(text, index[:, turn]), images) for turn in range(wanted)]
        return self.loss(torch.stack(columns, dim=1), allowed[:, :wanted])

    def loss(self, scores: Float[Tensor, "r k"], allowed: Bool[Tensor, "r _"]) -> Loss:
        """scores: of the own text, then of others, of which those that are not `allowed` do not count."""
        scores = torch.cat([scores[:, :1], scores[:, 1:].masked_fill(~allowed, -torch.inf)], dim=1)
        label = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
        value = F.cross_entropy(scores, label, reduction="sum")
        first = (scores.detach().argmax(1) == 0).to(value.dtype).sum()
        return Loss(value=joint_mean(value, len(label)), logs={"accuracy": 100 * joint_mean(first, len(label))})

    @torch.no_grad()
    def _others(self, batch: Batch, owner: Int[Tensor, " r"]) -> tuple[Int[Tensor, "r m"], Bool[Tensor, "r m"]]:
        """All ranks' texts in a random order of each row's own, those of other images first; and which are of others."""
        own = batch.id[owner]
        other = own[:, None] != gather(own)[None, :]
        order = uniform(mix_rows(batch.seed[owner], 3, turns(owner)), other.shape[1]).masked_fill(~other, 2.0)
        index = order.argsort(dim=1)
        return index, other.gather(1, index)
