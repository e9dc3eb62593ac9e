"""NLVR2: is a sentence true of two images?

Suhr et al., arXiv:1811.00491. The pair is one image of the batch, pixels [b 2 3 h w], the left one first. Heads: dandelin/ViLT
`nlvr2_classifier` over both images' pooled states; salesforce/ALBEF models/model_nlvr.py `cls_head` over the one pooled state
of a text that attended to both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.precision import apply_head
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Image, Momentum, require_finite
from vlp.system.errors import UserError
from vlp.tasks.base import ClassificationTask

HEADS = ("vilt", "albef")


class NLVR2(ClassificationTask):
    """width: of the fusion's states.  head: "vilt" where the fusion pools each image (model.fusion.images=2), "albef" where
    it pools both together.  Label 1 = true.  distillation (ALBEF: 0.4), distillation_warmup: see `ClassificationTask`.
    """

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
        self.num_classes = 2
        self.distillation, self.distillation_warmup = distillation, distillation_warmup
        if head not in HEADS:
            raise UserError(f"unknown head {head!r} of nlvr2: choose {' or '.join(HEADS)}")
        self.uses: tuple[str, ...] = ("momentum",) if distillation else ()
        double = 2 * width
        self.head = (
            nn.Sequential(nn.Linear(double, double), nn.LayerNorm(double), nn.GELU(), nn.Linear(double, 2))
            if head == "vilt"
            else nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        )
        for module in self.head.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def head_logits(
        self, model: VisionLanguageModel, head: nn.Sequential, batch: Batch, features: Features | Momentum | None
    ) -> Float[Tensor, "b 2"]:
        """Of false and true; the images are encoded here, since `features` have no pairs."""
        image, question = batch.image, batch.question
        if image is None or question is None or image.pixels.ndim != 5 or image.pixels.shape[1] != 2:
            raise UserError("nlvr2 needs batches with a question and pixels [b 2 3 h w], two images for each sample")
        size = None if image.size is None else rearrange(image.size, "b i two -> (b i) two")
        tokens = model.encode_image(Image(pixels=rearrange(image.pixels, "b i c h w -> (b i) c h w"), size=size))
        memory = model.project_memory(tokens)
        left, right = (memory.select(slice(first, None, 2)) for first in (0, 1))
        pooled = model.fuse(model.encode_text(question), left, right).pooled
        width = head[0].in_features
        if pooled.shape[1] != width:
            raise UserError(
                f"this fusion pools {pooled.shape[1]} numbers for two images and the head takes {width}: set tasks.nlvr2.head"
            )
        return apply_head(head, pooled)

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """The probability that the sentence is true."""
        logits = require_finite(self.logits(model, batch), "logits of the classes")
        rows = zip(batch.sample.tolist(), logits.argmax(1).tolist(), logits.softmax(1)[:, 1].tolist(), strict=True)
        return [{"sample": sample, "true": best == 1, "probability": probability} for sample, best, probability in rows]
