"""NLVR2: is a sentence true of two images?

Suhr et al., arXiv:1811.00491. The pair is one image of the batch, pixels [b 2 3 h w], left one first, and the sentence is its
`question`, so that no objective takes it for a caption. Heads: dandelin/ViLT `nlvr2_classifier` over both images' pooled
states; salesforce/ALBEF models/model_nlvr.py `cls_head` over the one state of a text that looked at both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.distributed import total
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import ramp
from vlp.structures import Batch, Features, Image, Loss
from vlp.system.errors import UserError
from vlp.tasks.base import Task
from vlp.tasks.visual_entailment import classification_loss

HEADS = ("vilt", "albef")


class NLVR2(Task):
    """width: of the fusion's states.  head: "vilt" where the fusion pools each image (model.fusion.images=2), "albef" where
    it pools both together.  Label 1 = true.  distillation: α of the momentum copy's soft targets, reached linearly over
    `distillation_warmup` steps (ALBEF: 0.4).
    """

    requires = ("image", "question", "label")
    needs = ("vision", "text", "fusion")
    stored = ("width", "head")
    images = 2

    def __init__(
        self,
        *,
        width: int,
        head: str = "vilt",
        distillation: float = 0.0,
        distillation_warmup: int = 0,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if head not in HEADS:
            raise UserError(f"unknown head {head!r} of nlvr2: choose {' or '.join(HEADS)}")
        self.distillation, self.distillation_warmup = distillation, distillation_warmup
        self.uses: tuple[str, ...] = ("momentum",) if distillation else ()
        both = 2 * width
        self.head = (
            nn.Sequential(nn.Linear(both, both), nn.LayerNorm(both), nn.GELU(), nn.Linear(both, 2))
            if head == "vilt"
            else nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        )
        for module in self.head.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def logits(self, model: VisionLanguageModel, batch: Batch) -> Float[Tensor, "b 2"]:
        """Of false and true."""
        return _logits(model, self.head, batch)

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        assert batch.label is not None
        soft, slow = None, features.momentum
        if self.distillation:
            assert slow is not None
            with torch.no_grad():
                soft = _logits(slow.twin(model), slow.twin(self.head), batch).softmax(1)
        alpha = ramp(self.distillation, features.step, self.distillation_warmup)
        return classification_loss(self.logits(model, batch), batch.label, soft, alpha)

    def reset(self) -> None:
        self._right, self._count = 0, 0

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        assert batch.label is not None
        known = batch.label >= 0
        self._right += int((self.logits(model, batch).argmax(1) == batch.label)[known].sum())
        self._count += int(known.sum())

    def compute(self, model: VisionLanguageModel) -> dict[str, float]:
        device = next(self.parameters()).device
        right, count = total(torch.tensor([self._right, self._count], device=device)).tolist()
        if not count:
            raise UserError("nlvr2 saw no sample whose label is known")
        return {"accuracy": 100 * right / count, "chance": 50.0}

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """The probability that the sentence is true."""
        probability = self.logits(model, batch).softmax(1)[:, 1].tolist()
        return [
            {"sample": sample, "true": chance > 0.5, "probability": chance}
            for sample, chance in zip(batch.sample.tolist(), probability, strict=True)
        ]


def _logits(model: VisionLanguageModel, head: nn.Sequential, batch: Batch) -> Float[Tensor, "b 2"]:
    if (
        batch.image is None
        or batch.question is None
        or batch.image.pixels.ndim != 5
        or batch.image.pixels.shape[1] != 2
    ):
        raise UserError("nlvr2 needs batches with a question and pixels [b 2 3 h w], two images a sample")
    size = None if batch.image.size is None else rearrange(batch.image.size, "b i two -> (b i) two")
    every = model.encode_image(Image(pixels=rearrange(batch.image.pixels, "b i c h w -> (b i) c h w"), size=size))
    memory = model.remember(every)
    pooled = model.fuse(
        model.encode_text(batch.question), *(memory.select(slice(turn, None, 2)) for turn in (0, 1))
    ).pooled
    wanted = head[0].in_features
    if pooled.shape[1] != wanted:
        raise UserError(
            f"this fusion pools {pooled.shape[1]} numbers for two images and the head takes {wanted}: set tasks.nlvr2.head"
        )

    return head(pooled)
