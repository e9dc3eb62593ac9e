"""Image-text contrast: symmetric InfoNCE with a learned temperature, over the batch of all ranks or with a momentum queue.

Plain (Radford et al., arXiv:2103.00020, figure 3): where a batch holds several captions of one image, each is a positive of
its own and never a negative of another: for image i with positives P(i) and negatives N(i) (other image ids)

    L_i = -1/|P(i)| Σ_{j ∈ P(i)} log( e^{z_ij} / (e^{z_ij} + Σ_{k ∈ N(i)} e^{z_ik}) )

which is CLIP's loss when all images differ. With a queue or soft targets (Li et al., arXiv:2107.07651, equations 1 and 6;
salesforce/ALBEF models/model_pretrain.py, model_retrieval.py) the candidates are the momentum copy's features of this
batch and of the batches before, and

    L_i = -Σ_j y_ij log softmax_j(z_ij),   y_i = (1 - α) 1[j ∈ P(i)] / |P(i)| + α softmax(z̄_i)

with z̄ the momentum copy's own similarities. ALBEF contrasts with its own rank's batch; here with that of all ranks, so the
loss does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlp.distributed import gather, joint_mean
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, ramp
from vlp.structures import Batch, Features, Loss
from vlp.system.errors import UserError


def info_nce(logits: Float[Tensor, "n m"], positive: Bool[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """L_i of each row; a row without any negative has loss 0, and so has a row without any positive."""
    negatives = logits.masked_fill(positive, -torch.inf).logsumexp(1)
    row, column = positive.nonzero(as_tuple=True)
    score = logits[row, column]
    losses = torch.logaddexp(negatives[row], score) - score
    return torch.zeros_like(negatives).index_add(0, row, losses / positive.sum(1)[row])


def soft_cross_entropy(
    logits: Float[Tensor, "n m"], slow: Float[Tensor, "n m"], positive: Bool[Tensor, "n m"], alpha: float
) -> Float[Tensor, " n"]:
    """L_i of each row with soft targets (0 for a row without any positive), of which `slow` are the momentum copy's logits."""
    count = positive.sum(1, keepdim=True)
    target = (1 - alpha) * positive / count.clamp(min=1) + alpha * slow.softmax(1)
    return -(logits.log_softmax(1) * target).sum(1) * (count[:, 0] > 0)


class Queue(nn.Module):
    """A ring of the last features with the ids of their images (-1 = unknown), equal on all ranks.

    size: how many; it need not be a multiple of anything.  width: of the joint space.
    """

    embed: Tensor
    id: Tensor
    pointer: Tensor
    count: Tensor

    def __init__(self, *, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("embed", torch.zeros(size, width))
        self.register_buffer("id", torch.full((size,), -1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))  # where the next feature goes
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # how many were ever put in, up to size

    def contents(self) -> tuple[Float[Tensor, "k e"], Int[Tensor, " k"]]:
        count = int(self.count)
        return self.embed[:count], self.id[:count]

    @torch.no_grad()
    def put(self, embed: Float[Tensor, "n e"], image_id: Int[Tensor, " n"]) -> None:
        embed, image_id = embed[-self.size :], image_id[-self.size :]
        place = (self.pointer + torch.arange(len(embed), device=embed.device)) % self.size
        self.embed[place], self.id[place] = embed.to(self.embed), image_id
        self.pointer.add_(len(embed)).remainder_(self.size)
        self.count.add_(len(embed)).clamp_(max=self.size)


class ITC(Objective):
    """Contrast of each image with all texts and of each text with all images; the mean of both directions.

    queue_size: features of past batches that serve as further candidates; 0 = none.  width: of the joint space, needed for a
    queue.  distillation: α of the soft targets, reached linearly over the first `distillation_warmup` steps.
    Both need the momentum copy of the model.
    """

    requires = ("image", "caption")
    needs = ("vision", "text", "projection")
    in_batch = True

    def __init__(
        self,
        *,
        queue_size: int = 0,
        width: int | None = None,
        distillation: float = 0.0,
        distillation_warmup: int = 0,
        weight: float | list[list[float]] = 1.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        self.uses: tuple[str, ...] = ("image_embed", "text_embed")
        self.distillation, self.distillation_warmup = distillation, distillation_warmup
        self.slow = queue_size > 0 or distillation > 0
        if self.slow:
            self.uses += ("momentum.image_embed", "momentum.text_embed")
        if queue_size and width is None:
            raise UserError("objectives.itc.queue_size needs objectives.itc.width, the width of the joint space")
        self.image_queue, self.text_queue = (
            Queue(size=queue_size, width=width or 0) if queue_size else None for _ in range(2)
        )

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        joint = getattr(model.projection, "width", None)
        if self.image_queue is not None and joint is not None and self.image_queue.embed.shape[1] != joint:
            raise UserError(
                f"objectives.itc.width={self.image_queue.embed.shape[1]} is not the joint space's: set objectives.itc.width={joint}"
            )

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        image, text, owner = features.image_embed, features.text_embed, features.owner
        assert image is not None
        assert text is not None
        assert owner is not None
        text_id = batch.id[owner]
        logs = {"logit_scale": model.part("projection").scale()}
        if self.slow:
            to_text, to_image = self._with_momentum(model, features, batch.id, text_id)
        else:
            images, texts = gather(image), gather(text)
            to_text = info_nce(model.similarity(image, texts), batch.id[:, None] == gather(text_id)[None, :])
            to_image = info_nce(model.similarity(images, text).T, text_id[:, None] == gather(batch.id)[None, :])
        value = (joint_mean(to_text.sum(), len(to_text)) + joint_mean(to_image.sum(), len(to_image))) / 2
        return Loss(value=value, logs=logs)

    def _with_momentum(
        self, model: VisionLanguageModel, features: Features, image_id: Int[Tensor, " b"], text_id: Int[Tensor, " r"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " r"]]:
        image, text, slow = features.image_embed, features.text_embed, features.momentum
        assert image is not None
        assert text is not None
        assert slow is not None
        assert slow.image_embed is not None
        assert slow.text_embed is not None
        fresh = {
            "image": (gather(slow.image_embed), gather(image_id)),
            "text": (gather(slow.text_embed), gather(text_id)),
        }
        images, image_ids = _joined(fresh["image"], self.image_queue)
        texts, text_ids = _joined(fresh["text"], self.text_queue)
        alpha = ramp(self.distillation, features.step, self.distillation_warmup)
        with torch.no_grad():
            slow_to_text = model.similarity(slow.image_embed, texts)
            slow_to_image = model.similarity(images, slow.text_embed).T
        to_text = soft_cross_entropy(
            model.similarity(image, texts), slow_to_text, image_id[:, None] == text_ids[None, :], alpha
        )
        to_image = soft_cross_entropy(
            model.similarity(images, text).T, slow_to_image, text_id[:, None] == image_ids[None, :], alpha
        )
        if self.training and self.image_queue is not None and self.text_queue is not None:
            self.image_queue.put(*fresh["image"])
            self.text_queue.put(*fresh["text"])
        return to_text, to_image


def _joined(
    fresh: tuple[Float[Tensor, "n e"], Int[Tensor, " n"]], queue: Queue | None
) -> tuple[Float[Tensor, "m e"], Int[Tensor, " m"]]:
    """This batch's features and the queue's.

    A copy, as the queue changes before the backward pass. Ids of this batch are never -1, so what is unknown matches nothing.
    """
    if queue is None:
        return fresh
    embed, image_id = queue.contents()
    return torch.cat([fresh[0], embed.to(fresh[0])]), torch.cat([fresh[1], image_id])
