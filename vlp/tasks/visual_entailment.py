"""Visual entailment (SNLI-VE): does the image entail, contradict or leave open what a sentence says?

Xie et al., arXiv:1901.06706; salesforce/ALBEF models/model_ve.py: two linear maps over the fused first token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.precision import apply_head
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Momentum, require, require_finite
from vlp.tasks.base import ClassificationTask

CLASSES = ("entailment", "neutral", "contradiction")


class VisualEntailment(ClassificationTask):
    """width: of the fusion's pooled state.  distillation, distillation_warmup: see `ClassificationTask`."""

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
        self.num_classes = len(classes)
        self.distillation, self.distillation_warmup = distillation, distillation_warmup
        self.classes = tuple(classes)
        self.uses: tuple[str, ...] = ("memory", "momentum.memory") if distillation else ("memory",)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(self.classes)))

    def head_logits(
        self, model: VisionLanguageModel, head: nn.Sequential, batch: Batch, features: Features | Momentum | None
    ) -> Float[Tensor, "b c"]:
        assert features is not None
        assert features.memory is not None
        return apply_head(head, model.fuse(model.encode_text(require(batch.question)), features.memory).pooled)

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        features = Features(memory=model.project_memory(model.encode_image(require(batch.image))))
        logits = require_finite(self.logits(model, batch, features), "logits of the classes")
        rows = zip(batch.sample.tolist(), logits.argmax(1).tolist(), logits.softmax(1).tolist(), strict=True)
        return [
            {"sample": sample, "label": self.classes[best], "probability": probability}
            for sample, best, probability in rows
        ]
