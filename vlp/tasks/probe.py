"""A classifier on frozen features, fitted when the measurement begins and measured on the split: what the features know of classes.

Features are those of the evaluation transform, without augmentation. On test, the setting (λ, C or k) is chosen on val and the
classifier then fitted to train and val (Radford et al. 2021, arXiv:2103.00020, A.3); where val itself is measured, or the data
have none, it is chosen on a tenth of train and fitted to all of train. The measured split is never used. Classes: one for each
image, or several (COCO), then mean average precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from vlp import distributed
from vlp.metrics.classification import average_precision, exclusive_figures, multi_label_figures
from vlp.models.classified_images import Classified, ClassifiedImages, best_classes, has_classes
from vlp.models.precision import to_float32
from vlp.models.probes.choose import Fitted, choose_and_fit, method_named
from vlp.models.probes.labelled import Labelled, LinearClassifier, check_scaling
from vlp.models.probes.subsets import reserved
from vlp.models.split_features import KINDS, split_features
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Image, require, require_finite
from vlp.system.errors import UserError
from vlp.tasks.base import Task

RESERVED_SHARE = 0.1  # of train, to choose on where there is no val


class Probe(Task):
    """classifier: ridge, logistic, knn or class_mean.  features: pooled, before the projection, or embed, of the joint space.
    scaling: unit = of length 1; none; standard = each of mean 0 and deviation 1 over the training images.
    folder: where features are cached for later runs; None = nowhere.  seed: of the tenth of train.
    class_names, feature_width: of a linear classifier that a checkpoint keeps, which `predict` uses; None = those of the data.
    save: a new checkpoint file of the measured weights with the fitted classifier; None = none is written.
    """

    requires = ("image",)
    head_weight: Tensor
    head_bias: Tensor
    stored = ("classifier", "features", "scaling", "class_names", "feature_width")
    predicts_by_head = True

    def __init__(
        self,
        *,
        classifier: str = "logistic",
        features: str = "pooled",
        scaling: str = "unit",
        folder: str | None = None,
        seed: int = 0,
        class_names: Sequence[str] | None = None,
        feature_width: int | None = None,
        save: str | None = None,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        method_named(classifier)
        check_scaling(scaling)
        if features not in KINDS:
            raise UserError(f"tasks.probe.features={features}: choose one of {', '.join(KINDS)}")
        if weight:
            raise UserError("tasks.probe.weight: a probe is fitted, not trained; task=[classification] trains a head")
        if save is not None and Path(save).exists():
            raise UserError(f"tasks.probe.save={save} exists: give a new file")
        if save is not None and classifier == "knn":
            raise UserError("tasks.probe.save: knn is all training features; choose ridge, logistic or class_mean")
        self.classifier, self.kind, self.scaling = classifier, features, scaling
        self.folder, self.seed, self.save = folder, seed, save
        self.needs = ("vision", "projection") if features == "embed" else ("vision",)
        self.uses = ("image_embed",) if features == "embed" else ("image",)
        self.class_names = tuple(class_names or ())
        if self.class_names and feature_width:
            self._keep(torch.zeros(len(self.class_names), feature_width), torch.zeros(len(self.class_names)))
        self._fitted: Fitted | None = None

    def _keep(self, weight: Float[Tensor, "c d"], bias: Float[Tensor, " c"]) -> None:
        """In float32, as part of a checkpoint."""
        self.register_buffer("head_weight", weight.float())
        self.register_buffer("head_bias", bias.float())

    def applies(self, batch: Batch, source: str) -> bool:
        return has_classes(batch) and super().applies(batch, source)

    def reset(self) -> None:
        self._images = ClassifiedImages([self.kind])
        self._fitted = None

    @torch.no_grad()
    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        """Fits the classifier to the features of the training images, on every rank."""
        names = tuple(getattr(data, "class_names", None) or ())
        if not hasattr(data, "split") or not names:
            return  # single inputs, or a source without classes
        train, pool, refit = training_parts(model, data, self.split, [self.kind], folder=self.folder, seed=self.seed)
        device = next(model.parameters()).device
        kind = self.kind
        with torch.autocast(device.type, enabled=False):
            self._fitted = choose_and_fit(
                self.method(model, tokenizer, names),
                to_device(train[kind], device),
                to_device(pool[kind], device),
                criterion(train[kind].exclusive),
                scaling=self.scaling,
                refit=to_device(refit[kind], device),
            )
        if self._fitted.at_end:
            rank_zero_warn(f"probe: the best {self.classifier} setting, {self._fitted.setting:g}, is an outermost one")
        self._train_images = len(refit[kind])
        if isinstance(self._fitted.classifier, LinearClassifier):
            linear = self._fitted.classifier.unscaled(self._fitted.scaling)
            self.class_names = names
            self._keep(linear.weight.to(device), linear.bias.to(device))
            distributed.broadcast_from_first_rank([self.head_weight, self.head_bias])

    def method(self, model: VisionLanguageModel, tokenizer: Any, names: Sequence[str]) -> Any:
        """What is fitted: see `choose_and_fit`."""
        return self.classifier

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        read = features.image_embed if self.kind == "embed" else require(features.image).pooled
        self._images.add({self.kind: require(read)}, batch)

    def left_out(self) -> int:
        return self._images.unknown()

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """Accuracies or precisions; setting: λ, C or k, None where there is none; train_images: that the classifier saw."""
        if self._fitted is None:
            raise UserError("probe has no class names: the data module must set class_names")
        device = next(model.parameters()).device
        found = self._images.gather(device, len(self.class_names), task="probe")
        figures = class_figures(self._fitted.scores(found.features[self.kind]).cpu(), found)
        own = {**figures, "setting": self._fitted.setting, "train_images": float(self._train_images)}
        first: dict[str, float | None] = distributed.gather_objects(own)[0]
        return first

    def head_settings(self) -> dict[str, object]:
        """With which a checkpoint builds this task again, for its fitted classifier."""
        width = self.head_weight.shape[1]
        return {"class_names": list(self.class_names), "feature_width": width, "folder": None}

    def lacking(self, data: Any) -> str | None:
        fitted = hasattr(self, "head_weight") and bool(self.head_weight.any())
        return None if fitted else "a fitted classifier: evaluate with task=[probe] tasks.probe.save=FILE and give FILE"

    @torch.no_grad()
    def probabilities(self, model: VisionLanguageModel, image: Image) -> Float[Tensor, "b c"]:
        """Softmax of the scores; for a logistic classifier of one class an image, these are its probabilities."""
        if message := self.lacking(None):
            raise UserError(f"probe needs {message}")
        tokens = model.encode_image(image, pooled_only=True)
        features = model.embed_image(tokens) if self.kind == "embed" else to_float32(tokens.pooled)
        if self.scaling == "unit":
            features = torch.nn.functional.normalize(features, dim=1)
        linear = LinearClassifier(weight=self.head_weight.to(features), bias=self.head_bias.to(features))
        return require_finite(linear.scores(features), "scores of the classes").softmax(1)

    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """The five best classes of each image with their probabilities."""
        return best_classes(batch, self.probabilities(model, require(batch.image)), self.class_names)


Parts = dict[str, Labelled]  # by kind of features


def training_parts(
    model: VisionLanguageModel, data: Any, split: str, kinds: Sequence[str], *, folder: str | None, seed: int
) -> tuple[Parts, Parts, Parts]:
    """(to fit to, to choose a setting on, to fit the chosen one to), for a measurement of `split`; see the module."""
    train = split_features(model, data, "train", kinds=kinds, folder=folder)
    if not len(train[kinds[0]]):
        raise UserError(f"{data.name} has no training images with a class, which a probe is fitted to")
    if split == "test" and len(data.split("val")):
        pool = split_features(model, data, "val", kinds=kinds, folder=folder)
        if len(pool[kinds[0]]):
            return train, pool, {kind: part.join(pool[kind]) for kind, part in train.items()}
    mask: Bool[Tensor, " n"] = reserved(len(train[kinds[0]]), RESERVED_SHARE, seed=seed)
    rest = {kind: part.select(~mask) for kind, part in train.items()}
    return rest, {kind: part.select(mask) for kind, part in train.items()}, train


def to_device(data: Labelled, device: torch.device) -> Labelled:
    return Labelled(features=data.features.to(device), targets=data.targets.to(device), exclusive=data.exclusive)


def criterion(exclusive: bool) -> Any:
    """What a setting is chosen by: accuracy, or mean average precision; from 0 to 1."""

    def accuracy(scores: Tensor, targets: Tensor) -> float:
        return float(targets.gather(1, scores.argmax(1, keepdim=True)).double().mean())

    def precision(scores: Tensor, targets: Tensor) -> float:
        occurs = targets.any(0)
        return float(average_precision(scores[:, occurs], targets[:, occurs])[0].mean()) if bool(occurs.any()) else 0.0

    return accuracy if exclusive else precision


def class_figures(scores: Float[Tensor, "n c"], found: Classified) -> dict[str, float]:
    if found.categories is not None:
        return multi_label_figures(scores, found.categories)
    return exclusive_figures(scores, require(found.label))
