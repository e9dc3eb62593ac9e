"""Prompt learning on cached image embeddings: Adam on the context of `vlp.models.text.prompts`, nothing else.

Zhou et al., arXiv:2109.01134, learn by SGD on augmented images for 50 to 200 epochs; here no image is encoded again, and the
number of steps is what is chosen, with 0, zero-shot classification, among them. The loss is the cross-entropy of the model's own
logits; of images with several classes a sigmoid's for each class, whose bias is learned beside and does not change the order of
images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vlp.models.probes.labelled import Labelled, LinearClassifier
from vlp.models.probes.text_logistic import text_weights
from vlp.models.text.prompts import DEFAULT_TEMPLATE, LearnedPrompts
from vlp.models.vlm import VisionLanguageModel
from vlp.random import permutation
from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer

ORDER_KEY = 5  # of the permutation that a step's images come from
STEPS = (5, 10, 20, 50, 100)
Cosines = Callable[[Tensor, Tensor], Tensor]  # of images [n e] and classes [c e]: [n c]


@dataclass(frozen=True, kw_only=True)
class TextClassifier(LinearClassifier):
    """embeds: of the classes, of unit length.  cosines: of features with them, as zero-shot classification has them."""

    embeds: Float[Tensor, "c e"]
    cosines: Cosines

    def scores(self, features: Float[Tensor, "n e"]) -> Float[Tensor, "n c"]:
        return self.cosines(features, self.embeds)


class PromptLearning:
    """make: new prompts.  cosines: see TextClassifier.  steps: numbers of steps that are compared, 0 too.
    rate: of Adam, as a share of the root mean square of the first context's numbers, so that it means the same for every tower.
    batch_size: images of a step, all where there are fewer.  Images are embeddings of the joint space.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        make: Callable[[], LearnedPrompts],
        cosines: Cosines,
        *,
        steps: Sequence[int] = STEPS,
        rate: float | int = 0.1,
        batch_size: int = 1024,
        seed: int = 0,
    ) -> None:
        if not steps or any(count < 0 for count in steps) or rate <= 0 or batch_size < 1:
            raise UserError(
                f"learned prompts: steps={list(steps)} are 0 or more, rate={rate} and batch_size={batch_size} above 0"
            )
        self.model, self.make, self.cosines = model, make, cosines
        self.steps, self.rate, self.batch_size, self.seed = sorted({0, *steps}), rate, batch_size, seed
        self._path: tuple[Labelled, dict[float, TextClassifier]] | None = None  # of the last samples

    def default_settings(self, train: Labelled) -> tuple[float, ...]:
        return tuple(float(count) for count in self.steps)

    def fit(self, train: Labelled, setting: float | int) -> TextClassifier:
        return self.fit_path(train, [setting])[0]

    def fit_path(self, train: Labelled, settings: Sequence[float | int]) -> list[TextClassifier]:
        """After each number of steps of one training."""
        if self._path is None or self._path[0] is not train or not self._path[1].keys() >= set(settings):
            with torch.inference_mode(False), torch.enable_grad():
                self._path = train, self._train(train, settings)
        return [self._path[1][steps] for steps in settings]

    def _train(self, train: Labelled, settings: Sequence[float | int]) -> dict[float, TextClassifier]:
        prompts = self.make()
        images, targets = train.features.float().clone(), train.targets.float().clone()  # no tensors of inference mode
        with torch.no_grad():
            bias = _first_bias(self.model.similarity(images, prompts.embed(self.model)), targets)
        bias.requires_grad_(not train.exclusive)
        learned = [prompts.context, *([] if train.exclusive else [bias])]
        scale = float(prompts.context.detach().square().mean().sqrt())
        groups: list[dict[str, Any]] = [
            {"params": learned[:1], "lr": self.rate * scale},
            {"params": learned[1:], "lr": self.rate},
        ]
        optimizer = torch.optim.Adam([group for group in groups if group["params"]])
        found: dict[float, TextClassifier] = {}
        for step in range(int(max(settings)) + 1):
            embeds = prompts.embed(self.model)
            if step in settings:
                found[float(step)] = self._classifier(embeds.detach())
            if step == max(settings):
                break
            rows = self._rows(len(images), step)
            logits = self.model.similarity(images[rows], embeds)
            if train.exclusive:
                loss = F.cross_entropy(logits, targets[rows])
            else:
                loss = F.binary_cross_entropy_with_logits(logits + bias, targets[rows])
            gradients = torch.autograd.grad(loss, learned)  # of nothing else: the model's parameters get none
            for variable, gradient in zip(learned, gradients, strict=True):
                variable.grad = gradient
            optimizer.step()
        return found

    def _rows(self, count: int, step: int) -> Tensor | slice:
        return (
            slice(None)
            if count <= self.batch_size
            else permutation(count, self.seed, ORDER_KEY, step)[: self.batch_size]
        )

    def _classifier(self, embeds: Float[Tensor, "c e"]) -> TextClassifier:
        weight = text_weights(self.model, embeds).double()
        return TextClassifier(weight=weight, bias=weight.new_zeros(len(weight)), embeds=embeds, cosines=self.cosines)


def _first_bias(logits: Float[Tensor, "n c"], targets: Float[Tensor, "n c"]) -> Float[Tensor, " c"]:
    """That of mean logits which say how often each class occurs."""
    share = (targets.sum(0) + 0.5) / (len(targets) + 1)
    return share.logit() - logits.mean(0)


def prompt_learning(
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    names: Sequence[str],
    cosines: Cosines,
    *,
    template: str = DEFAULT_TEMPLATE,
    vectors: int | None = None,
    per_class: bool = False,
    seed: int = 0,
    **training: Any,
) -> PromptLearning:
    """template, vectors, per_class: see LearnedPrompts.  training: see PromptLearning."""

    def make() -> LearnedPrompts:
        return LearnedPrompts(
            model, tokenizer, names, template=template, vectors=vectors, per_class=per_class, seed=seed
        )

    return PromptLearning(model, make, cosines, seed=seed, **training)
