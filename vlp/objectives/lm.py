"""Captioning loss: each token of a caption out of the image and the tokens before it.

Li et al., arXiv:2201.12086, §3.2 (BLIP, label smoothing 0.1); salesforce/BLIP models/blip.py, models/med.py. Smoothing is
that of torch since 1.11; torch 1.10, which BLIP used, smoothed the ignored positions as well, a thousandth more or less.
Distillation from the momentum copy is that of ALBEF's answers (arXiv:2107.07651, §3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vlp.distributed import joint_mean
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, ramp
from vlp.structures import Batch, Features, Loss, Text
from vlp.tokenizers.base import Tokenizer


def token_losses(
    logits: Float[Tensor, "b t v"],
    text: Text,
    *,
    label_smoothing: float = 0.0,
    prompt: int = 0,
    slow: Float[Tensor, "b t v"] | None = None,
    alpha: float = 0.0,
) -> Float[Tensor, "b t"]:
    """At each token the loss of predicting it, 0 at the start token, at padding and at the `prompt` tokens after the start.

    slow: logits of the momentum copy, to whose softmax a share `alpha` of the loss goes.
    """
    counted = text.mask.clone()
    counted[:, : 1 + prompt] = False
    before = F.pad(counted[:, 1:], (0, 1))  # the places whose logits speak of a token that counts
    chosen = logits[before]
    loss = F.cross_entropy(chosen, text.ids[counted], label_smoothing=label_smoothing, reduction="none")
    if slow is not None:
        loss = (1 - alpha) * loss - alpha * (chosen.log_softmax(1) * slow[before].softmax(1)).sum(1)
    return torch.zeros_like(text.mask, dtype=loss.dtype).masked_scatter(counted, loss)


def completed(text: Text, prompt: Int[Tensor, " p"], end_id: int) -> Text:
    """[b t] or [b k t] texts as rows: the prompt after the start token, and an end token where a text has none."""
    ids, mask = text.ids.flatten(0, -2), text.mask.flatten(0, -2)
    real = mask.any(1, keepdim=True)
    prompts = prompt.to(ids).expand(len(ids), -1)
    ids = torch.cat([ids[:, :1], prompts, ids[:, 1:], ids[:, :1]], dim=1)
    mask = torch.cat([mask[:, :1], real.expand(-1, len(prompt)), mask[:, 1:], torch.zeros_like(real)], dim=1)
    place = mask.sum(1, keepdim=True)  # just behind the last token
    bare = real & (ids.gather(1, (place - 1).clamp(min=0)) != end_id)
    ids = torch.where(bare, ids.scatter(1, place.clamp(max=ids.shape[1] - 1), end_id), ids)
    return Text(ids=ids, mask=mask | (bare & (torch.arange(ids.shape[1], device=ids.device) == place))).select(
        slice(None)
    )


class LM(Objective):
    """prompt: words that stand before every caption and are not learned (BLIP's captioner: "a picture of ").
    distillation: α of the momentum copy's soft targets, reached linearly over the first `distillation_warmup` steps.
    """

    requires = ("image", "caption")
    needs = ("vision", "decoder")

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        prompt: str = "",
        distillation: float = 0.0,
        distillation_warmup: int = 0,
        weight: float | list[list[float]] = 1.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        self.label_smoothing, self.prompt = label_smoothing, prompt
        self.distillation, self.distillation_warmup = distillation, distillation_warmup
        self.uses: tuple[str, ...] = ("image", "momentum.image") if distillation else ("image",)

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer, data: Any) -> None:
        self._prompt_ids = torch.tensor(tokenizer.encode([self.prompt])[0], dtype=torch.int64)
        self._end_id = tokenizer.end_id

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        assert features.image is not None
        assert batch.caption is not None
        text = completed(batch.caption, self._prompt_ids, self._end_id)
        logits, slow = model.decode(text, features.image), None
        if self.distillation:
            assert features.momentum is not None
            assert features.momentum.image is not None
            with torch.no_grad():
                slow = features.momentum.twin(model).decode(text, features.momentum.image)
        prompt = len(self._prompt_ids)
        losses = token_losses(
            logits,
            text,
            label_smoothing=self.label_smoothing,
            prompt=prompt,
            slow=slow,
            alpha=ramp(self.distillation, features.step, self.distillation_warmup),
        )
        counted = text.mask[:, 1 + prompt :]
        right = (logits.detach()[:, prompt:-1].argmax(-1) == text.ids[:, 1 + prompt :]) & counted
        count = counted.sum()
        return Loss(
            value=joint_mean(losses.sum(), count),
            logs={"accuracy": 100 * joint_mean(right.sum().to(losses.dtype), count)},
        )
