"""Captioning loss: each token of a caption is predicted from the image and the tokens before it.

Li et al., arXiv:2201.12086, §3.2 (BLIP, label smoothing 0.1); salesforce/BLIP models/blip.py, models/med.py. Smoothing is
that of torch since 1.11; torch 1.10, which BLIP used, also smoothed the ignored positions, which changes the loss by about
0.1 %. Distillation from the momentum model is that of ALBEF's answers (arXiv:2107.07651, §3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vlp.distributed import mean_over_ranks
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, linear_warmup
from vlp.structures import Batch, Features, Loss, Text, require
from vlp.tokenizers.base import Tokenizer


def token_losses(
    logits: Float[Tensor, "b t v"],
    text: Text,
    *,
    label_smoothing: float = 0.0,
    prompt: int = 0,
    momentum_logits: Float[Tensor, "b t v"] | None = None,
    alpha: float = 0.0,
) -> Float[Tensor, "b t"]:
    """At each token the loss of predicting it, 0 at the start token, at padding and at the `prompt` tokens after the start.

    A share `alpha` of the loss is the cross-entropy with the soft targets softmax(momentum_logits).
    """
    is_target = text.mask.clone()
    is_target[:, : 1 + prompt] = False
    predicts_target = F.pad(is_target[:, 1:], (0, 1))  # the logits at one position predict the token at the next
    target_logits = logits[predicts_target]
    loss = F.cross_entropy(target_logits, text.ids[is_target], label_smoothing=label_smoothing, reduction="none")
    if momentum_logits is not None:
        soft_targets = momentum_logits[predicts_target].softmax(1)
        loss = (1 - alpha) * loss - alpha * (target_logits.log_softmax(1) * soft_targets).sum(1)
    return torch.zeros_like(text.mask, dtype=loss.dtype).masked_scatter(is_target, loss)


def losses_at_targets(
    decoder: Any, text: Text, memory: Any, *, label_smoothing: float = 0.0
) -> tuple[Float[Tensor, "b t"], Int[Tensor, ""]]:
    """`token_losses` of texts without a prompt, and how many tokens are the most probable ones; logits are computed where a token
    is predicted, and nowhere else.  decoder: with `logits_at`.  memory: what it reads."""
    is_target = text.mask.clone()
    is_target[:, :1] = False
    logits = decoder.logits_at(text, memory, F.pad(is_target[:, 1:], (0, 1)))
    targets = text.ids[is_target]
    loss = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    correct = (logits.detach().argmax(1) == targets).sum()
    return torch.zeros_like(text.mask, dtype=loss.dtype).masked_scatter(is_target, loss), correct


def add_prompt_and_end(text: Text, prompt: Int[Tensor, " p"], end_id: int) -> Text:
    """[b t] or [b k t] texts as rows: the prompt after the start token, and an end token where a text has none."""
    ids, mask = text.ids.flatten(0, -2), text.mask.flatten(0, -2)
    nonempty = mask.any(1, keepdim=True)
    prompts = prompt.to(ids).expand(len(ids), -1)
    ids = torch.cat([ids[:, :1], prompts, ids[:, 1:], ids[:, :1]], dim=1)
    mask = torch.cat([mask[:, :1], nonempty.expand(-1, len(prompt)), mask[:, 1:], torch.zeros_like(nonempty)], dim=1)
    length = mask.sum(1, keepdim=True)  # also the position of an end token that is added
    missing_end = nonempty & (ids.gather(1, (length - 1).clamp(min=0)) != end_id)
    ids = torch.where(missing_end, ids.scatter(1, length.clamp(max=ids.shape[1] - 1), end_id), ids)
    added = missing_end & (torch.arange(ids.shape[1], device=ids.device) == length)
    return Text(ids=ids, mask=mask | added).select(slice(None))


class LM(Objective):
    """prompt: text put before every caption and left out of the loss (BLIP's captioner: "a picture of ").
    distillation: α of the momentum model's soft targets, reached linearly over the first `distillation_warmup` steps.
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
        text = add_prompt_and_end(require(batch.caption), self._prompt_ids, self._end_id)
        logits, momentum_logits = model.decode(text, require(features.image)), None
        if self.distillation:
            momentum = require(features.momentum)
            with torch.no_grad():
                momentum_logits = momentum.copy_of(model).decode(text, require(momentum.image))
        prompt = len(self._prompt_ids)
        losses = token_losses(
            logits,
            text,
            label_smoothing=self.label_smoothing,
            prompt=prompt,
            momentum_logits=momentum_logits,
            alpha=linear_warmup(self.distillation, features.step, self.distillation_warmup),
        )
        is_target = text.mask[:, 1 + prompt :]
        correct = (logits.detach()[:, prompt:-1].argmax(-1) == text.ids[:, 1 + prompt :]) & is_target
        count = is_target.sum()
        return Loss(
            value=mean_over_ranks(losses.sum(), count),
            logs={"accuracy": 100 * mean_over_ranks(correct.sum().to(losses.dtype), count)},
        )
