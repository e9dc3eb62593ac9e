from __future__ import annotations

import dataclasses

import torch

from tests.towers import toy_batch
from vlp.models.classified_images import has_classes
from vlp.structures import Text


def test_a_label_beside_choices_is_no_class_but_categories_are() -> None:
    plain = toy_batch()
    choices = Text(ids=torch.ones(12, 2, 3, dtype=torch.int64), mask=torch.ones(12, 2, 3, dtype=torch.bool))
    label, categories = torch.zeros(12, dtype=torch.int64), torch.ones(12, 4, dtype=torch.bool)
    assert not has_classes(plain)
    assert has_classes(dataclasses.replace(plain, label=label))
    assert not has_classes(dataclasses.replace(plain, label=label, choices=choices))
    assert has_classes(dataclasses.replace(plain, label=label, choices=choices, categories=categories))
