"""SigLIP's sigmoid loss against the originals' numbers, and itself on two processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.objectives.contrast import CASES, assert_reference, assert_two_processes_equal_one
from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.objectives.siglip import SigLIP


def test_reference_values(shared: Path) -> None:
    data = np.load(shared / "reference/losses/clip_siglip_float64.npz")
    assert_reference(SigLIP(), "bias", data, "siglip", loss_name="siglip", tolerance=1e-10)
    inputs = np.load(shared / "reference/open_clip/losses/inputs.npz")
    outputs = np.load(shared / "reference/open_clip/losses/outputs.npz")
    joined = {**{f"in_{k}": inputs[k] for k in inputs.files}, **outputs}
    assert_reference(SigLIP(), "bias", joined, "siglip_loss", "siglip_loss", 1e-5)


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "siglip" and case[1] is None], ids=str)
def test_two_processes_equal_one(case: tuple[str, int | None, tuple[int, int]]) -> None:
    assert_two_processes_equal_one(case)


def test_a_caption_of_the_same_image_is_a_positive() -> None:
    model = toy_model(logit_bias=-10.0).double()
    batch = toy_batch()
    features = compute_features(model, batch, SigLIP.uses)
    z = torch.where(batch.id[:, None] == batch.id[None, :], 1.0, -1.0).double()
    logits = model.similarity(features.image_embed, features.text_embed)
    expected = torch.log1p(torch.exp(-z * logits)).sum() / len(batch)
    assert int((z > 0).sum()) == len(batch) + 2
    torch.testing.assert_close(SigLIP()(model, batch, features).value, expected)


def test_needs_a_bias() -> None:
    model, batch = toy_model().double(), toy_batch()
    with pytest.raises(ValueError, match="logit_bias=-10"):
        SigLIP()(model, batch, compute_features(model, batch, SigLIP.uses))
