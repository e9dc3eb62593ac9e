"""A joint step of contrast, matching and masked words computes nothing twice, and its losses equal those of each alone."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.contrast import make
from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.objectives.base import Objective


@pytest.mark.parametrize("same_image", [False, True])
def test_everything_is_computed_once(same_image: bool) -> None:
    model, batch = toy_model(fused=True).double(), toy_batch(same_image=same_image)
    objectives: dict[str, Objective] = {name: make(name).double() for name in ("itc", "itm", "mlm")}
    calls = dict.fromkeys(("vision", "text", "key_value"), 0)

    def count(name: str) -> object:
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    model.vision.register_forward_hook(count("vision"))
    model.text.register_forward_hook(count("text"))
    rows: list[int] = []
    key_value = model.fusion.blocks[0].cross_attention.key_value
    key_value.register_forward_hook(count("key_value"))
    key_value.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    fields = set().union(*(objective.uses for objective in objectives.values()))
    features = compute_features(model, batch, fields)
    together = {name: objective(model, batch, features).value for name, objective in objectives.items()}
    assert calls == {"vision": 1, "text": 2, "key_value": 1}  # the second text is the masked one
    assert rows == [len(batch)]
    for name, objective in objectives.items():
        alone = objective(model, batch, compute_features(model, batch, objective.uses)).value
        torch.testing.assert_close(together[name], alone, rtol=1e-12, atol=1e-12)
