"""The label-efficiency curve: figures of classifiers of frozen features against the number of labels, from zero-shot on.

Few shots a class and fractions of the training images are nested subsets of several draws, the same images for every method. A
setting is chosen on other images: min(4, n) of each class for n shots (Zhou et al., arXiv:2109.01134), at most as many as are
trained on for a fraction, from val, or, where val is measured or the data have none, from a tenth of train that no draw has.
Only with all labels is the chosen setting fitted to both. Zero-shot is that of the `zero_shot` task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp import distributed
from vlp.launch.runs.label_points import read_label_points
from vlp.metrics.label_curve import labels_worth, mean_and_interval
from vlp.metrics.recall import exact_cosines
from vlp.models.classified_images import Classified, ClassifiedImages, has_classes
from vlp.models.probes import subsets
from vlp.models.probes.choose import METHODS, choose_and_fit
from vlp.models.probes.labelled import check_scaling
from vlp.models.probes.prompt_learning import prompt_learning
from vlp.models.probes.text_logistic import TextLogistic, text_weights
from vlp.models.text.prompts import DEFAULT_TEMPLATE
from vlp.models.vlm import VisionLanguageModel
from vlp.random import permutation
from vlp.structures import Batch, Features, require
from vlp.system.errors import UserError
from vlp.tasks.base import Task
from vlp.tasks.probe import Parts, class_figures, criterion, to_device, training_parts
from vlp.tasks.zero_shot import embed_classes, read_templates, zero_shot_figures

MOST_VAL_SHOTS = 4
TEXT_METHODS = ("text_logistic", "prompts")  # of the joint embedding, from the classes' text embeddings
PROMPT_SETTINGS = ("template", "vectors", "per_class", "steps", "rate", "batch_size")
POOL_KEY = 4  # of the permutation of the images that settings are chosen on


@dataclass(frozen=True, kw_only=True)
class Point:
    """A number of labels. name: of its figures, such as shots_4 or percent_10.  labels: a class, or of all images."""

    name: str
    labels: float
    draws: list[tuple[Tensor, Tensor, bool]]  # rows of train and of the pool, and whether to fit to both in the end


class LabelEfficiency(Task):
    """methods: of ridge, logistic, knn, class_mean, text_logistic and prompts.  shots: labels of each class.  fractions: shares of
    the training images, from 0 to 1.  draws: random subsets of each size.  features, scaling, folder, seed: see Probe; seed is of
    the subsets too.  templates: see ZeroShot.  prompts: settings of the task `prompts`; template None = the only one of
    `templates`, or "a photo of a {}".  runs: by the name of a row, the folder of the trained runs that it consists of.  A model
    without a text tower has no zero-shot figure.
    """

    requires = ("image",)

    def __init__(
        self,
        *,
        methods: Sequence[str] = ("ridge", "logistic", "knn", "class_mean", "text_logistic"),
        shots: Sequence[int] = (1, 2, 4, 8, 16, 64),
        fractions: Sequence[float | int] = (0.01, 0.1, 1),
        draws: int = 3,
        features: str = "pooled",
        scaling: str = "unit",
        templates: Sequence[str] | str | Path | None = None,
        prompts: Mapping[str, Any] | None = None,
        runs: Mapping[str, str] | None = None,
        folder: str | None = None,
        seed: int = 0,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        check_scaling(scaling)
        _check(methods, shots, fractions, draws)
        if weight:
            raise UserError("tasks.label_efficiency.weight: classifiers are fitted, not trained; set it to 0")
        self.methods, self.shots, self.fractions, self.draws = list(methods), sorted(shots), sorted(fractions), draws
        self.kind, self.scaling, self.folder, self.seed = features, scaling, folder, seed
        self.templates, self.prompts = read_templates(templates), dict(prompts or {})
        self.runs = {name: Path(folder) for name, folder in (runs or {}).items()}
        if unknown := self.prompts.keys() - set(PROMPT_SETTINGS):
            raise UserError(
                f"tasks.label_efficiency.prompts has no {min(unknown)}: its settings are {', '.join(PROMPT_SETTINGS)}"
            )
        self.needs = ("vision", "projection") if features == "embed" else ("vision",)
        self._kinds = ["pooled", "embed"] if features == "embed" else ["pooled"]  # known when the measurement begins
        self._parts: tuple[Parts, Parts, Parts] | None = None

    @property
    def uses(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("image", "image_embed") if "embed" in self._kinds else ("image",)

    def applies(self, batch: Batch, source: str) -> bool:
        return has_classes(batch) and super().applies(batch, source)

    def reset(self) -> None:
        self._images = ClassifiedImages(["pooled"])
        self._parts = None
        self._figures = {}

    @torch.no_grad()
    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        """Computes the features of the images that classifiers may be fitted to."""
        names = tuple(getattr(data, "class_names", None) or ())
        if not hasattr(data, "split") or not names:
            return
        joint = model.text is not None and model.projection is not None and tokenizer is not None
        self._kinds = ["pooled", "embed"] if joint or self.kind == "embed" else ["pooled"]
        self._images = ClassifiedImages(self._kinds)
        self._classes = len(names)
        self._text = embed_classes(model, tokenizer, names, self.templates) if joint else None
        if joint and "prompts" in self.methods:
            only = self.templates[0] if len(self.templates) == 1 else DEFAULT_TEMPLATE
            settings = self.prompts | {"template": self.prompts.get("template") or only}
            self._prompts = prompt_learning(model, tokenizer, names, exact_cosines, seed=self.seed, **settings)
        self._no_val = self.split != "test" or not len(data.split("val"))
        self._parts = training_parts(model, data, self.split, self._kinds, folder=self.folder, seed=self.seed)

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if self._parts is None:
            raise UserError("label_efficiency has no class names: the data module must set class_names")
        read: dict[str, Any] = {"pooled": require(features.image).pooled, "embed": features.image_embed}
        self._images.add({kind: read[kind] for kind in self._kinds}, batch)

    def left_out(self) -> int:
        return self._images.unknown()

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """<method>_shots_<n> and <method>_percent_<p>: top1, or mean average precision, the mean over draws, with its
        …_interval (half of the 95 % interval over draws); zero_shot; zero_shot_worth_<method>: labels a class that the method
        needs to reach it, None if more than any shots here."""
        assert self._parts is not None
        device = next(model.parameters()).device
        found = self._images.gather(device, self._classes, task="label_efficiency")
        result: tuple[dict[str, float | None], dict[str, object]] | None = None
        if distributed.rank() == 0:
            result = self._curves(model, found, device)
        figures, curves = distributed.gather_objects(result)[0]
        self._figures = {"label_curves": curves}
        return dict(figures)

    def _curves(
        self, model: VisionLanguageModel, found: Classified, device: torch.device
    ) -> tuple[dict[str, float | None], dict[str, object]]:
        assert self._parts is not None
        name = "top1" if found.categories is None else "mean_average_precision"
        figures: dict[str, float | None] = {}
        zero_shot = None if self._text is None else zero_shot_figures(found, self._text)[name]
        if zero_shot is not None:
            figures["zero_shot"] = zero_shot
        curves: dict[str, dict[str, tuple[float, float, float | None]]] = {}
        points = list(self._points())
        for method in self.methods:
            if method in TEXT_METHODS and self._text is None:
                continue
            curve: dict[str, tuple[float, float, float | None]] = {}
            for point in points:
                values = [self._figure(method, model, draw, found, device)[name] for draw in point.draws]
                mean, half = mean_and_interval(values)
                curve[point.name] = point.labels, mean, half
                figures |= {f"{method}_{point.name}": mean, f"{method}_{point.name}_interval": half}
            if zero_shot is not None:
                reached = [(labels, mean) for key, (labels, mean, _) in curve.items() if key.startswith("shots")]
                figures[f"zero_shot_worth_{method}"] = labels_worth(reached, zero_shot)
            curves[method] = curve
        for row, folder in self.runs.items():
            curves[row] = self._trained_curve(folder, name)
            for key, (_, mean, half) in curves[row].items():
                figures |= {f"{row}_{key}": mean, f"{row}_{key}_interval": half}
        return figures, {"figure": name, "zero_shot": zero_shot, "methods": curves}

    def _trained_curve(self, folder: Path, figure: str) -> dict[str, tuple[float, float, float | None]]:
        assert self._parts is not None
        total = len(self._parts[0]["pooled"])
        curve: dict[str, tuple[float, float, float | None]] = {}
        for count, values in read_label_points(folder, figure, total).items():
            curve[f"percent_{100 * count / total:g}"] = float(count), *mean_and_interval(values)
        return curve

    def _points(self) -> Iterator[Point]:
        """Subsets of every size that the training images have."""
        assert self._parts is not None
        train, pool, _ = (part["pooled"] for part in self._parts)
        most = int(train.targets.sum(0).max())
        for count in self.shots:
            if count > most:
                continue
            draws = []
            for draw in range(self.draws):
                rows = subsets.shots(train.targets, count, seed=self.seed, draw=draw)
                chosen_on = subsets.shots(pool.targets, min(MOST_VAL_SHOTS, count), seed=self.seed, draw=draw)
                draws.append((rows, chosen_on, False))
            yield Point(name=f"shots_{count}", labels=float(count), draws=draws)
        for share in self.fractions:
            draws = []
            for draw in range(self.draws if share < 1 else 1):
                rows = subsets.fraction(len(train), share, seed=self.seed, draw=draw)
                chosen_on = permutation(len(pool), self.seed, POOL_KEY, draw)[: len(rows)].sort().values
                draws.append((rows, chosen_on, share == 1))
            yield Point(name=f"percent_{100 * share:g}", labels=float(len(draws[0][0])), draws=draws)

    def _figure(
        self,
        method: str,
        model: VisionLanguageModel,
        draw: tuple[Tensor, Tensor, bool],
        found: Classified,
        device: torch.device,
    ) -> dict[str, float]:
        assert self._parts is not None
        of_text = method in TEXT_METHODS
        fitted_by: Any = method
        if of_text:
            text = method == "text_logistic"
            fitted_by = TextLogistic(text=text_weights(model, require(self._text))) if text else self._prompts
        kind = "embed" if of_text else self.kind
        train, pool, both = (part[kind] for part in self._parts)
        rows, chosen_on, refit = draw
        fitted = choose_and_fit(
            fitted_by,
            to_device(train.select(rows), device),
            to_device(pool.select(chosen_on), device),
            criterion(train.exclusive),
            scaling="none" if of_text else self.scaling,
            refit=to_device(both, device) if refit else None,
        )
        return class_figures(fitted.scores(found.features[kind]).cpu(), found)


def _check(methods: Sequence[str], shots: Sequence[int], fractions: Sequence[float | int], draws: int) -> None:
    """Raises UserError."""
    known = (*METHODS, *TEXT_METHODS)
    place = "tasks.label_efficiency"
    if unknown := [name for name in methods if name not in known]:
        raise UserError(f"{place}.methods: there is no {unknown[0]}: choose from {', '.join(known)}")
    if not methods or draws < 1:
        raise UserError(f"{place}: give one of methods={list(methods)} and of draws={draws} at least")
    if any(count < 1 for count in shots) or any(not 0 < share <= 1 for share in fractions):
        raise UserError(f"{place}: shots={list(shots)} are 1 or more, fractions={list(fractions)} above 0, 1 at most")
