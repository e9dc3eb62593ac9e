"""A classifier of frozen features by name: its setting (λ, C, k) is chosen on samples that it was not fitted to, which are never
those that are measured."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from jaxtyping import Float
from torch import Tensor

from vlp.models.probes import class_mean, logistic, nearest_neighbours, ridge
from vlp.models.probes.labelled import Criterion, Labelled, LinearClassifier, fit_scaling
from vlp.system.errors import UserError

# Each module has default_settings(train), fit_path(train, settings) and fit(train, setting); settings are in an order from the
# strongest regularisation to the weakest
METHODS: dict[str, ModuleType] = {
    "ridge": ridge,
    "logistic": logistic,
    "knn": nearest_neighbours,
    "class_mean": class_mean,
}


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """classifier: reads features that are scaled.  setting: the chosen one; None where the method has none.  at_end: whether it
    is the first or last of those compared, so a better one may lie beyond."""

    classifier: LinearClassifier | Any
    scaling: Any
    setting: float | None
    at_end: bool

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        scores: Tensor = self.classifier.scores(self.scaling(features))
        return scores


def method_named(name: str) -> ModuleType:
    if name not in METHODS:
        raise UserError(f"classifier={name}: choose one of {', '.join(METHODS)}")
    return METHODS[name]


def choose_and_fit(
    name: str | Any,
    train: Labelled,
    chosen_on: Labelled,
    criterion: Criterion,
    *,
    scaling: str = "unit",
    refit: Labelled | None = None,
) -> Fitted:
    """Of settings that are equally good on `chosen_on`, the strongest regularisation.

    name: of METHODS, or an object with their functions.  refit: what the chosen setting is fitted to; None = train.
    Raises UserError where there is nothing to fit or to choose on.
    """
    method: Any = method_named(name) if isinstance(name, str) else name
    if not len(train) or not len(chosen_on):
        raise UserError(f"{name}: {len(train)} samples to fit and {len(chosen_on)} to choose its setting on: give both")
    scaled_by = fit_scaling(scaling, train.features)
    scaled = scaled_by.of(train)
    settings = method.default_settings(scaled)
    index, at_end = 0, False
    if len(settings) > 1:
        queries = scaled_by(chosen_on.features)
        figures = [criterion(fitted.scores(queries), chosen_on.targets) for fitted in method.fit_path(scaled, settings)]
        index = figures.index(max(figures))
        at_end = len(settings) > 2 and max(figures) > max(figures[1:-1])
    if refit is not None:
        scaled_by = fit_scaling(scaling, refit.features)
        scaled = scaled_by.of(refit)
    return Fitted(
        classifier=method.fit(scaled, settings[index]),
        scaling=scaled_by,
        setting=settings[index] if len(settings) > 1 else None,
        at_end=at_end,
    )
