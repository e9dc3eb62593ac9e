"""Affinity distillation: which texts an image resembles, and which images a text, as the teacher sees the batch.

    L = ½ mean_i KL( softmax_j(τ_t cos t_ij) ‖ softmax_j(z_ij) ) + ½ the same from texts to images

over the batch of all ranks, with the teacher's cosines cos t_ij and the student's logits z_ij (Wu et al., TinyCLIP,
arXiv:2309.12314, §3.1, "affinity mimicking"; open_clip's `DistillClipLoss` has the same cross-entropy without τ_t of its own). The
widths of the two joint spaces need not agree. Several teachers: the mean of their losses, each with its own τ_t, which matters
(MobileCLIP2, arXiv:2508.20691, §3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vlp.distributed import gather
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.distill_feature import MOMENTUM, Distillation
from vlp.objectives.itc import mean_of_directions
from vlp.structures import Batch, Features, Loss, require
from vlp.system.errors import UserError


def divergence(student_logits: Float[Tensor, "n m"], teacher_logits: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """KL(teacher ‖ student) of each row's softmax, in nats."""
    target = teacher_logits.log_softmax(1)
    return F.kl_div(student_logits.log_softmax(1), target, log_target=True, reduction="none").sum(1)


class DistillAffinity(Distillation):
    """teacher_scale: τ_t, what the teacher's cosines are multiplied by; a mapping gives each teacher its own. None = the scale that
    the teacher was trained with."""

    in_batch = True

    def __init__(
        self,
        *,
        teachers: Sequence[str] | None = None,
        teacher_scale: float | Mapping[str, float] | None = None,
        weight: float | list[list[float]] = 1.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(teachers=teachers, weight=weight, sources=sources)
        self._given = teacher_scale
        self._scales: dict[str, float | None] = {}
        for scale in teacher_scale.values() if isinstance(teacher_scale, Mapping) else [teacher_scale]:
            if scale is not None and not scale > 0:
                raise UserError(
                    f"objectives.distill_affinity.teacher_scale={teacher_scale}: give numbers above 0, such as 50, or null"
                )

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        super().prepare(model, tokenizer, data)
        for source in data.sources.values():
            for name, table in source.teacher_embeddings.items():
                self._scales[name] = table.logit_scale if self._given_scale(name) is None else self._given_scale(name)
                if self._scales[name] is None:
                    raise UserError(
                        f"teachers.{name} has no temperature of its own: set objectives.distill_affinity.teacher_scale=50"
                    )

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        image, text = require(features.image_embed), require(features.text_embed)
        to_text = model.similarity(image, gather(text))
        to_image = model.similarity(gather(image), text).T
        losses, logs = [], {"logit_scale": model.part("projection").scale()}
        embeddings = self.teacher_embeddings(batch, features)
        for name, teacher in embeddings.items():
            teacher_image, teacher_text = require(teacher.image).to(image), require(teacher.text).to(text)
            scale = self._scale(name, model)
            loss = mean_of_directions(
                divergence(to_text, scale * teacher_image @ gather(teacher_text).T),
                divergence(to_image, scale * teacher_text @ gather(teacher_image).T),
            )
            losses.append(loss)
            if len(embeddings) > 1:
                logs[f"loss_{name}"] = loss.detach()
        return Loss(value=torch.stack(losses).mean(), logs=logs)

    def _given_scale(self, name: str) -> float | None:
        return self._given.get(name) if isinstance(self._given, Mapping) else self._given

    def _scale(self, name: str, model: VisionLanguageModel) -> float | Tensor:
        """Of the momentum copy, unless it is given, the model's own."""
        scale = self._given_scale(name) if name == MOMENTUM else self._scales[name]
        if scale is None:
            own: Tensor = model.part("projection").scale()
            return own
        return scale
