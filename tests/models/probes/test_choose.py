from __future__ import annotations

import pytest
import torch

from tests.models.probes.examples import clouds
from vlp.models.probes.choose import METHODS, choose_and_fit
from vlp.models.probes.labelled import Labelled


def accuracy(scores: torch.Tensor, targets: torch.Tensor) -> float:
    return float((scores.argmax(1) == targets.int().argmax(1)).double().mean())


@pytest.mark.parametrize("name", METHODS)
def test_each_method_separates_clouds(name: str) -> None:
    data = clouds(samples=240, noise=0.3)
    fitted = choose_and_fit(name, data.select(slice(0, 90)), data.select(slice(90, 120)), accuracy)
    rest = data.select(slice(120, None))
    assert accuracy(fitted.scores(rest.features), rest.targets) > 0.95


def test_the_setting_is_the_best_one_of_the_other_samples() -> None:
    data = clouds(samples=60, width=40, noise=6.0)
    train, other = data.select(slice(0, 30)), data.select(slice(30, None))
    seen = []

    def criterion(scores: torch.Tensor, targets: torch.Tensor) -> float:
        assert targets is other.targets
        seen.append(accuracy(scores, targets))
        return seen[-1]

    fitted = choose_and_fit("ridge", train, other, criterion, scaling="none")
    settings = METHODS["ridge"].default_settings(train)
    assert fitted.setting == settings[seen.index(max(seen))]
    again = choose_and_fit("ridge", train, other, accuracy, scaling="none", refit=data)
    torch.testing.assert_close(again.classifier.weight, METHODS["ridge"].fit(data, fitted.setting).weight)


def test_mistakes() -> None:
    data = clouds()
    empty = Labelled(features=data.features[:0], targets=data.targets[:0], exclusive=True)
    with pytest.raises(ValueError, match="choose one of ridge, logistic, knn, class_mean"):
        choose_and_fit("svm", data, data, accuracy)
    with pytest.raises(ValueError, match="120 samples to fit and 0 to choose"):
        choose_and_fit("ridge", data, empty, accuracy)


@pytest.mark.parametrize("name", METHODS)
def test_one_sample_is_enough(name: str) -> None:
    data = clouds()
    fitted = choose_and_fit(name, data.select(slice(0, 1)), data.select(slice(1, 2)), accuracy)
    assert bool(fitted.scores(data.features).isfinite().all())
