from __future__ import annotations

import torch

from vlp.models.probes import class_mean
from vlp.models.probes.labelled import Labelled


def test_the_nearest_mean_by_cosine_whatever_the_length() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 9.0], [0.0, -5.0]])
    train = Labelled(features=features, targets=torch.eye(3, 4).bool()[[0, 0, 1]], exclusive=True)
    (found,) = class_mean.fit_path(train, class_mean.default_settings(train))
    diagonal = 0.5**0.5
    expected = torch.tensor([[diagonal, diagonal], [0, -1], [0, 0], [0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found.weight, expected)


def test_several_classes_a_sample_compare_two_means() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    train = Labelled(features=features, targets=torch.tensor([[True], [False]]), exclusive=False)
    scores = class_mean.fit(train, 0.0).scores(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
    torch.testing.assert_close(scores[:, 0], torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
