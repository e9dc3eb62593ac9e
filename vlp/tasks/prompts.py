"""Prompt learning (CoOp: Zhou et al., arXiv:2109.01134): vectors before the class names, learned through the frozen text tower
when the measurement begins and measured on the split. What is chosen is the number of steps: vlp/models/probes/prompt_learning.py
says how, vlp/tasks/probe.py on which images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlp.metrics.recall import exact_cosines
from vlp.models.probes.prompt_learning import STEPS, PromptLearning, prompt_learning
from vlp.models.text.prompts import DEFAULT_TEMPLATE
from vlp.models.vlm import VisionLanguageModel
from vlp.system.errors import UserError
from vlp.tasks.probe import Probe


class Prompts(Probe):
    """template: with {} for the name.  vectors: how many, which start at random; None = the template's words before the name.
    per_class: vectors of each class.  steps, rate, batch_size: see PromptLearning.  seed: of random vectors, of the order of
    images, and of the tenth of train.  The others: see Probe; what `save` keeps are the classes' vectors that the texts gave.
    """

    stored: tuple[str, ...] = ("class_names", "feature_width")  # type: ignore[assignment]

    def __init__(
        self,
        *,
        template: str = DEFAULT_TEMPLATE,
        vectors: int | None = None,
        per_class: bool = False,
        steps: Sequence[int] = STEPS,
        rate: float | int = 0.1,
        batch_size: int = 1024,
        features: str = "embed",
        folder: str | None = None,
        seed: int = 0,
        class_names: Sequence[str] | None = None,
        feature_width: int | None = None,
        save: str | None = None,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        if features != "embed" or weight:
            raise UserError(
                "tasks.prompts are fitted to embeddings of the joint space: set features=embed and weight=0"
            )
        super().__init__(
            classifier="class_mean", features="embed", scaling="none", folder=folder, seed=seed, class_names=class_names,
            feature_width=feature_width, save=save, sources=sources,
        )  # fmt: skip
        self.classifier = "prompts"
        self.needs = ("vision", "text", "projection")
        self.prompts: dict[str, Any] = {"template": template, "vectors": vectors, "per_class": per_class}
        self.prompts |= {"steps": steps, "rate": rate, "batch_size": batch_size}

    def method(self, model: VisionLanguageModel, tokenizer: Any, names: Sequence[str]) -> PromptLearning:
        if tokenizer is None:
            raise UserError("prompts are texts: measure a model with a text tower and its tokenizer")
        return prompt_learning(model, tokenizer, names, exact_cosines, seed=self.seed, **self.prompts)
