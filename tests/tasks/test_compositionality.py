from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Image, Text, Tokens
from vlp.tasks.compositionality import Compositionality


class OneHot(nn.Module):
    """A text tower whose feature is the unit vector of the first id."""

    def forward(self, text: Text) -> Tokens:
        pooled = F.one_hot(text.ids[:, 0], 8).float()
        return Tokens(states=pooled[:, None], pooled=pooled)


class Through(nn.Module):
    def project_text(self, pooled: torch.Tensor) -> torch.Tensor:
        return pooled


MODEL = VisionLanguageModel(text=OneHot(), projection=Through())


def batch_of(choices: list[list[int]], label: list[int]) -> Batch:
    index = torch.arange(len(choices))
    width = max(map(len, choices))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in choices])[..., None]
    return Batch(
        id=index, sample=index, seed=index, label=torch.tensor(label), choices=Text(ids=ids, mask=ids > 0),
        image=Image(pixels=index.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)),
    )  # fmt: skip


def image_embed(*rows: dict[int, float]) -> Features:
    embed = torch.zeros(len(rows), 8)
    for row, values in zip(embed, rows, strict=True):
        for index, value in values.items():
            row[index] = value
    return Features(image_embed=embed)


def accuracy(choices: list[list[int]], label: list[int], features: Features) -> dict[str, float]:
    task = Compositionality()
    task.reset()
    task.update(MODEL, batch_of(choices, label), features)
    return task.compute(MODEL)


def test_the_right_text_must_score_highest() -> None:
    features = image_embed({1: 0.9, 2: 0.1}, {1: 0.9, 2: 0.1}, {3: -0.1, 4: -0.2, 5: -0.3})
    figures = accuracy([[1, 2], [1, 2], [3, 4, 5]], [0, 1, 0], features)
    assert figures["accuracy"] == pytest.approx(200 / 3)  # a padding choice of score 0 would beat the third
    assert figures["chance"] == pytest.approx(100 * (1 / 2 + 1 / 2 + 1 / 3) / 3)
    assert figures["images"] == 3


def test_ties_share_the_credit() -> None:
    figures = accuracy([[1, 2, 3], [1, 2, 3]], [1, 2], image_embed({1: 0.5, 2: 0.5}, {1: 0.5, 2: 0.5, 3: 0.5}))
    assert figures["accuracy"] == pytest.approx(100 * (1 / 2 + 1 / 3) / 2)


def test_a_label_past_the_choices_is_an_error() -> None:
    for label in (2, 5):
        with pytest.raises(ValueError, match="label is beyond its last choice"):
            accuracy([[1, 2], [1, 2, 3]], [label, 0], image_embed({1: 1.0}, {1: 1.0}))


def test_unknown_labels_are_left_out() -> None:
    assert accuracy([[1, 2], [1, 2]], [-1, 0], image_embed({2: 1.0}, {1: 1.0}))["accuracy"] == 100
