"""Fine-tuning for classes: a linear head on the image's feature, trained together with the tower.

A head from texts starts as the classes' text embeddings with the model's own temperature, so that before the first step it is
zero-shot classification exactly (WiSE-FT: Wortsman et al., arXiv:2109.01903); a random head reads either feature. Images with one
class have cross-entropy with label smoothing and mixup, images with several (COCO) a binary one for each class. Figures are those
of the `zero_shot` task. The text tower learns nothing: freeze it and what only it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlp.distributed import mean_over_ranks
from vlp.metrics.recall import exact_cosines
from vlp.models.classified_images import ClassifiedImages, best_classes, has_classes
from vlp.models.mixup import mixup
from vlp.models.precision import apply_head
from vlp.models.split_features import KINDS, feature_width
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Image, Loss, require, require_finite
from vlp.system.errors import UserError
from vlp.tasks.base import Task
from vlp.tasks.probe import class_figures
from vlp.tasks.zero_shot import embed_classes, read_templates

HEADS = ("text", "random")


class Classification(Task):
    """head: text (of the joint space) or random.  features: that a random head reads, pooled or embed.
    templates: prompts of a head from texts, see ZeroShot.  label_smoothing: share of the target that all classes get.
    mixup: α of Beta(α, α), 0 = off.  class_names, feature_width: of the head; None = it is made when it is first measured.
    """

    requires = ("image",)
    stored = ("head", "features", "class_names", "feature_width")
    predicts_by_head = True
    linear: nn.Linear | None
    initialised: Tensor

    def __init__(
        self,
        *,
        head: str = "text",
        features: str = "embed",
        templates: Sequence[str] | str | Path | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        class_names: Sequence[str] | None = None,
        feature_width: int | None = None,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        _check(head, features, label_smoothing, mixup)
        self.head, self.kind, self.templates = head, features, read_templates(templates)
        self.label_smoothing, self.mixup = label_smoothing, mixup
        self.needs = ("vision", *(("projection",) if features == "embed" else ()))
        feature = "image_embed" if features == "embed" else "image"
        self.uses = () if mixup else (feature,)  # mixed images are encoded here
        self.class_names = tuple(class_names or ())
        self.register_module("linear", None)
        if self.class_names and feature_width:
            self._make_head(feature_width)
        self._data_classes: tuple[str, ...] = ()

    def _make_head(self, width: int) -> None:
        self.linear = nn.Linear(width, len(self.class_names), bias=self.head == "random")
        self.register_buffer("initialised", torch.tensor(False))

    def untrained(self) -> Classification:
        """The same task with a head that starts again, for other weights of the tower."""
        return Classification(
            head=self.head,
            features=self.kind,
            templates=self.templates,
            class_names=self.class_names,
            feature_width=require(self.linear).in_features,
        )

    def applies(self, batch: Batch, source: str) -> bool:
        return has_classes(batch) and super().applies(batch, source)

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        """The first time, before any training, a head from texts gets the classes' embeddings."""
        self._data_classes = tuple(getattr(data, "class_names", None) or ())
        if self.linear is None and self._data_classes:
            self.class_names = self._data_classes
            self._make_head(feature_width(model, self.kind))
            self.to(next(model.parameters()).device)
        if self.linear is None or bool(self.initialised):
            return
        if self.head == "text":
            self._start_from_texts(model, tokenizer)
        self.initialised.fill_(True)

    @torch.no_grad()
    def _start_from_texts(self, model: VisionLanguageModel, tokenizer: Any) -> None:
        if model.text is None or tokenizer is None:
            raise UserError("tasks.classification.head=text needs a model with a text tower: set head=random")
        modes = {module: module.training for module in model.modules()}
        model.eval()
        embeds = embed_classes(model, tokenizer, self.class_names, self.templates)
        for module, training in modes.items():
            module.training = training
        weight = require(self.linear).weight
        weight.copy_(embeds.to(weight.dtype))

    def logits(self, model: VisionLanguageModel, features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        linear = require(self.linear)
        if self.head == "random":
            return apply_head(linear, features)
        return model.similarity(features, linear.weight)

    def scores(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """In the order of the logits; those of equal texts are equal."""
        linear = require(self.linear)
        if self.head == "text":
            return exact_cosines(features, linear.weight.detach())
        return F.linear(features.double(), linear.weight.detach().double(), linear.bias.detach().double())

    def read(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Float[Tensor, "b d"]:
        """The feature of each image: the shared one, or that of the batch's image where it was not computed."""
        shared = features.image_embed if self.kind == "embed" else features.image
        if isinstance(shared, Tensor):
            return shared
        return self._encode(model, require(batch.image)) if shared is None else shared.pooled

    def _encode(self, model: VisionLanguageModel, image: Image) -> Float[Tensor, "b d"]:
        tokens = model.encode_image(image, pooled_only=True)
        return model.embed_image(tokens) if self.kind == "embed" else tokens.pooled

    def targets_of(self, batch: Batch) -> Float[Tensor, "b c"]:
        """One-hot, or 1 for each category; all 0 where the class is unknown. In the head's order of classes.  Raises UserError
        if the data have other classes."""
        if self._data_classes and set(self._data_classes) != set(self.class_names):
            ours, theirs = ", ".join(self.class_names[:10]), ", ".join(self._data_classes[:10])
            raise UserError(f"classification has the classes {ours}, and the data {theirs}: they must be the same")
        count = len(self.class_names)
        if batch.categories is not None:
            found = batch.categories.float()
        else:
            label = require(batch.label)
            found = F.one_hot(label.clamp(min=0), count).float() * (label >= 0)[:, None]
        if self._data_classes in ((), self.class_names):
            return found
        return found[:, [self._data_classes.index(name) for name in self.class_names]]

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        targets = self.targets_of(batch)
        several, known = batch.categories is not None, targets.any(1)
        if self.mixup:
            image, targets = mixup(require(batch.image), targets, batch.seed, self.mixup)
            read = self._encode(model, image)
        else:
            read = self.read(model, batch, features)
        logits = self.logits(model, read)
        targets = targets.to(logits.dtype)
        if several:
            losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
            return Loss(value=mean_over_ranks(losses.sum(), len(losses)))
        mass = targets.sum(1)  # below 1 where an image, or its partner in mixup, has no known class
        smoothed = targets * (1 - self.label_smoothing) + mass[:, None] * self.label_smoothing / targets.shape[1]
        value = -(smoothed * logits.log_softmax(1)).sum()
        correct = ((logits.argmax(1) == targets.argmax(1)) & known).sum()
        accuracy = 100 * mean_over_ranks(correct.to(logits.dtype), known.sum())
        return Loss(value=mean_over_ranks(value, mass.sum()), logs={"accuracy": accuracy})

    def reset(self) -> None:
        self._images = ClassifiedImages([self.kind])

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if self.linear is None:
            raise UserError("classification has no class names: the data module must set class_names")
        targets = self.targets_of(batch)
        several = batch.categories is not None
        in_our_order = replace(
            batch,
            label=None if several else torch.where(targets.any(1), targets.argmax(1), -1),
            categories=targets.bool() if several else None,
        )
        self._images.add({self.kind: self.read(model, batch, features)}, in_our_order)

    def left_out(self) -> int:
        return self._images.unknown()

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        device = next(model.parameters()).device
        found = self._images.gather(device, len(self.class_names), task="classification")
        return {**class_figures(self.scores(found.features[self.kind]).cpu(), found)}

    def lacking(self, data: Any) -> str | None:
        trained = self.linear is not None and bool(self.initialised)
        return None if trained else "a trained head: train with task=[classification] tasks.classification.weight=1"

    @torch.no_grad()
    def probabilities(self, model: VisionLanguageModel, image: Image) -> Float[Tensor, "b c"]:
        if message := self.lacking(None):
            raise UserError(f"classification needs {message}")
        return require_finite(self.logits(model, self._encode(model, image)), "logits of the classes").softmax(1)

    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """The five best classes of each image with their probabilities."""
        return best_classes(batch, self.probabilities(model, require(batch.image)), self.class_names)


def _check(head: str, features: str, label_smoothing: float, alpha: float) -> None:
    """Raises UserError."""
    place = "tasks.classification"
    if head not in HEADS:
        raise UserError(f"{place}.head={head}: choose one of {', '.join(HEADS)}")
    if features not in KINDS:
        raise UserError(f"{place}.features={features}: choose one of {', '.join(KINDS)}")
    if head == "text" and features != "embed":
        raise UserError(f"{place}.head=text reads the joint embedding: set features=embed, or head=random")
    if not 0 <= label_smoothing < 1:
        raise UserError(f"{place}.label_smoothing={label_smoothing}: give a share from 0 to less than 1")
    if alpha < 0:
        raise UserError(f"{place}.mixup={alpha}: give α above 0, or 0 for no mixup")
