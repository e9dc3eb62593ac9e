"""Image-text contrast: symmetric InfoNCE with a learned temperature, over the batch of all ranks or with a momentum queue.

Plain (Radford et al., arXiv:2103.00020, figure 3): where a batch holds several captions of one image, each is a separate
positive and never a negative of another: for image i with positives P(i) and negatives N(i) (other image ids)

    L_i = -1/|P(i)| Σ_{j ∈ P(i)} log( e^{z_ij} / (e^{z_ij} + Σ_{k ∈ N(i)} e^{z_ik}) )

which is CLIP's loss when all images differ. With a queue or soft targets (Li et al., arXiv:2107.07651, equations 1 and 6;
salesforce/ALBEF models/model_pretrain.py, model_retrieval.py) the candidates are the momentum model's features of this
batch and of earlier batches, and

    L_i = -Σ_j y_ij log softmax_j(z_ij),   y_i = (1 - α) 1[j ∈ P(i)] / |P(i)| + α softmax(z̄_i)

with z̄ the similarities of the momentum model. ALBEF contrasts within the batch of one rank; here the batch is that of all
ranks, so the loss does not depend on their number.

dims (Kusupati et al., Matryoshka, arXiv:2205.13147, equation 1): the mean of the losses of the first d numbers of the embeddings,
of unit length again, for each d; so an index may keep fewer numbers a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlp.distributed import gather, mean_over_ranks
from vlp.models.embeddings import cut
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, linear_warmup, paired_similarity
from vlp.structures import Batch, Features, Loss, Text, Tokens, require
from vlp.system.errors import UserError


def info_nce(logits: Float[Tensor, "n m"], positive: Bool[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """L_i of each row; a row without any negative has loss 0, and so has a row without any positive."""
    negatives = logits.masked_fill(positive, -torch.inf).logsumexp(1)
    row, column = positive.nonzero(as_tuple=True)
    score = logits[row, column]
    losses = torch.logaddexp(negatives[row], score) - score
    return torch.zeros_like(negatives).index_add(0, row, losses / positive.sum(1)[row])


def soft_cross_entropy(
    logits: Float[Tensor, "n m"], momentum_logits: Float[Tensor, "n m"], positive: Bool[Tensor, "n m"], alpha: float
) -> Float[Tensor, " n"]:
    """L_i of each row with a share `alpha` of soft targets, softmax(momentum_logits); 0 for a row without any positive."""
    count = positive.sum(1, keepdim=True)
    target = (1 - alpha) * positive / count.clamp(min=1) + alpha * momentum_logits.softmax(1)
    return -(logits.log_softmax(1) * target).sum(1) * (count[:, 0] > 0)


def mean_of_directions(image_losses: Float[Tensor, " b"], text_losses: Float[Tensor, " r"]) -> Float[Tensor, ""]:
    """The mean of the mean loss of all ranks' images and that of all ranks' texts."""
    by_image = mean_over_ranks(image_losses.sum(), len(image_losses))
    return (by_image + mean_over_ranks(text_losses.sum(), len(text_losses))) / 2


class Queue(nn.Module):
    """A ring buffer of the latest features and the ids of their images (-1 = unknown), equal on all ranks.

    size: number of features; it need not be a multiple of the batch size.  width: of the joint space.
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
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))  # position of the next feature
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # features in the queue, at most size

    def contents(self) -> tuple[Float[Tensor, "k e"], Int[Tensor, " k"]]:
        count = int(self.count)
        return self.embed[:count], self.id[:count]

    @torch.no_grad()
    def enqueue(self, embed: Float[Tensor, "n e"], image_id: Int[Tensor, " n"]) -> None:
        embed, image_id = embed[-self.size :], image_id[-self.size :]
        positions = (self.pointer + torch.arange(len(embed), device=embed.device)) % self.size
        self.embed[positions], self.id[positions] = embed.to(self.embed), image_id
        self.pointer.add_(len(embed)).remainder_(self.size)
        self.count.add_(len(embed)).clamp_(max=self.size)


class ITC(Objective):
    """Contrast of each image with all texts and of each text with all images; the mean of both directions.

    queue_size: features of past batches that serve as further candidates; 0 = none.  width: of the joint space, needed for a
    queue.  distillation: α of the soft targets, reached linearly over the first `distillation_warmup` steps.
    Queue and distillation need the momentum model.
    dims: widths of the cuts that are trained, the joint space's own among them if it is to be; () = the joint space as it is.
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
        dims: Sequence[int] = (),
        weight: float | list[list[float]] = 1.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        self.uses: tuple[str, ...] = ("image_embed", "text_embed")
        self.distillation, self.distillation_warmup = distillation, distillation_warmup
        self.dims = tuple(dims)
        if any(isinstance(dim, bool) or dim < 1 for dim in dims) or len(set(dims)) < len(dims):
            raise UserError(f"objectives.itc.dims={list(dims)}: give different widths, such as [512,128]")
        self.uses_momentum = queue_size > 0 or distillation > 0
        if self.uses_momentum:
            self.uses += ("momentum.image_embed", "momentum.text_embed")
        if queue_size and width is None:
            raise UserError("objectives.itc.queue_size needs objectives.itc.width, the width of the joint space")
        self.image_queue, self.text_queue = (
            Queue(size=queue_size, width=width or 0) if queue_size else None for _ in range(2)
        )

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        joint_width = getattr(model.projection, "width", None)
        if self.image_queue is not None and joint_width not in (None, self.image_queue.embed.shape[1]):
            raise UserError(
                f"objectives.itc.width={self.image_queue.embed.shape[1]} differs from the width of the joint space: set "
                f"objectives.itc.width={joint_width}"
            )

        if self.dims and joint_width is not None and max(self.dims) > joint_width:
            raise UserError(
                f"objectives.itc.dims={list(self.dims)}: the joint space has {joint_width} numbers: leave out what is wider"
            )

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        text_id = batch.id[require(features.owner)]
        logs = {"logit_scale": model.part("projection").scale()}
        losses = self._momentum_losses if self.uses_momentum else self._batch_losses
        if not self.dims:
            return Loss(value=mean_of_directions(*losses(model, features, batch.id, text_id)), logs=logs)
        values = [mean_of_directions(*losses(model, features, batch.id, text_id, dim)) for dim in self.dims]
        logs |= {f"loss_{dim}": value.detach() for dim, value in zip(self.dims, values, strict=True)}
        return Loss(value=torch.stack(values).mean(), logs=logs)

    def _batch_losses(
        self,
        model: VisionLanguageModel,
        features: Features,
        image_id: Int[Tensor, " b"],
        text_id: Int[Tensor, " r"],
        dim: int | None = None,
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " r"]]:
        """L_i of each image and of each text, within the batch of all ranks.  dim: of the cut; None = none."""
        image, text = cut(require(features.image_embed), dim), cut(require(features.text_embed), dim)
        images, texts = gather(image), gather(text)
        image_losses = info_nce(model.similarity(image, texts), image_id[:, None] == gather(text_id)[None, :])
        text_losses = info_nce(model.similarity(images, text).T, text_id[:, None] == gather(image_id)[None, :])
        return image_losses, text_losses

    def score(self, model: VisionLanguageModel, image: Tokens, text: Text) -> Float[Tensor, " b"]:
        """The logit of the cosine of image i and text i."""
        return paired_similarity(model, image, text)

    def _momentum_losses(
        self,
        model: VisionLanguageModel,
        features: Features,
        image_id: Int[Tensor, " b"],
        text_id: Int[Tensor, " r"],
        dim: int | None = None,
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " r"]]:
        """L_i of each image and of each text, against the momentum model's features of this batch and the queues."""
        momentum = require(features.momentum)
        image_keys = gather(require(momentum.image_embed)), gather(image_id)
        text_keys = gather(require(momentum.text_embed)), gather(text_id)
        images, image_ids = _append_queue(*image_keys, self.image_queue)
        texts, text_ids = _append_queue(*text_keys, self.text_queue)
        images, texts = cut(images, dim), cut(texts, dim)
        alpha = linear_warmup(self.distillation, features.step, self.distillation_warmup)
        with torch.no_grad():
            momentum_to_texts = model.similarity(cut(require(momentum.image_embed), dim), texts)
            momentum_to_images = model.similarity(images, cut(require(momentum.text_embed), dim)).T
        image, text = cut(require(features.image_embed), dim), cut(require(features.text_embed), dim)
        image_losses = soft_cross_entropy(
            model.similarity(image, texts), momentum_to_texts, image_id[:, None] == text_ids[None, :], alpha
        )
        text_losses = soft_cross_entropy(
            model.similarity(images, text).T, momentum_to_images, text_id[:, None] == image_ids[None, :], alpha
        )
        last = not self.dims or dim == self.dims[-1]  # the queue is the same for all cuts
        if last and self.training and self.image_queue is not None and self.text_queue is not None:
            self.image_queue.enqueue(*image_keys)
            self.text_queue.enqueue(*text_keys)
        return image_losses, text_losses


def _append_queue(
    embed: Float[Tensor, "n e"], image_id: Int[Tensor, " n"], queue: Queue | None
) -> tuple[Float[Tensor, "m e"], Int[Tensor, " m"]]:
    """This batch's features and ids, then the queue's.

    A copy, as the queue changes before the backward pass. Ids of this batch are never -1, so an unknown id matches nothing.
    """
    if queue is None:
        return embed, image_id
    old_embed, old_id = queue.contents()
    return torch.cat([embed, old_embed.to(embed)]), torch.cat([image_id, old_id])
