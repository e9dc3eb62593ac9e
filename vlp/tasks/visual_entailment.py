"""Visual entailment (SNLI-VE): does the image entail, contradict or leave open what a sentence says?

Xie et al., arXiv:1901.06706; salesforce/ALBEF models/model_ve.py: two linear maps over the fused first token. The sentence
is `question`, so that no objective takes it for a caption of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlp.distributed import joint_mean, total
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import ramp
from vlp.structures import Batch, Features, Loss
from vlp.system.errors import UserError
from vlp.tasks.base import Task

CLASSES = ("entailment", "neutral", "contradiction")


def classification_loss(
    logits: Float[Tensor, "b c"], label: Tensor, soft: Float[Tensor, "b c"] | None, alpha: float
) -> Loss:
    """Cross-entropy with a share α of soft targets; the mean over the known labels (not -1) of all ranks, and the accuracy in
    percent."""
    known = label >= 0
    logits, label, soft = logits[known], label[known], None if soft is None else soft[known]
    value = F.cross_entropy(logits, label, reduction="sum")
    if soft is not None:
        value = (1 - alpha) * value - alpha * (logits.log_softmax(1) * soft).sum()
    right = (logits.detach().argmax(1) == label).to(value.dtype).sum()
    return Loss(value=joint_mean(value, len(label)), logs={"accuracy": 100 * joint_mean(right, len(label))})


class VisualEntailment(Task):
    """width: of the fusion's pooled state.  distillation: α of the momentum copy's soft targets, reached linearly over
    `distillation_warmup` steps."""

    requires = ("image", "question", "label")
    needs = ("vision", "text", "fusion")
    stored = ("width", "classes")

    def __init__(
        self,
        *,
        width: int,
        classes: Sequence[str] = CLASSES,
        distillation: float = 0.0,
        distillation_warmup: int = 0,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        self.classes = tuple(classes)
        self.distillation, self.distillation_warmup = distillation, distillation_warmup
        self.uses: tuple[str, ...] = ("memory", "momentum.memory") if distillation else ("memory",)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(self.classes)))

    def logits(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Float[Tensor, "b c"]:
        assert features.memory is not None
        assert batch.question is not None
        return self.head(model.fuse(model.encode_text(batch.question), features.memory).pooled)

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        assert batch.label is not None
        soft, slow = None, features.momentum
        if self.distillation:
            assert slow is not None
            assert slow.memory is not None
            assert batch.question is not None
            copy, head = slow.twin(model), slow.twin(self.head)
            with torch.no_grad():
                soft = head(copy.fuse(copy.encode_text(batch.question), slow.memory).pooled).softmax(1)
        alpha = ramp(self.distillation, features.step, self.distillation_warmup)
        return classification_loss(self.logits(model, batch, features), batch.label, soft, alpha)

    def reset(self) -> None:
        self._right, self._count = 0, 0

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        assert batch.label is not None
        self._right += int((self.logits(model, batch, features).argmax(1) == batch.label).sum())
        self._count += int((batch.label >= 0).sum())

    def compute(self, model: VisionLanguageModel) -> dict[str, float]:
        device = next(self.parameters()).device
        right, count = total(torch.tensor([self._right, self._count], device=device)).tolist()
        if not count:
            raise UserError("visual_entailment has nothing to measure: no sample has a label")
        return {"accuracy": 100 * right / count, "chance": 100 / len(self.classes)}

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        assert batch.image is not None
        features = Features(memory=model.remember(model.encode_image(batch.image)))
        probability = self.logits(model, batch, features).softmax(1).tolist()
        return [
            {"sample": sample, "label": self.classes[max(range(len(row)), key=row.__getitem__)], "probability": row}
            for sample, row in zip(batch.sample.tolist(), probability, strict=True)
        ]
