from __future__ import annotations

import pytest
import torch

from tests.tasks.test_panoptic import batch
from vlp.models.features import compute_features
from vlp.models.vision.eomt import EomtVit
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image
from vlp.system.errors import UserError
from vlp.tasks.panoptic import Panoptic


def tower(**options: object) -> EomtVit:
    torch.manual_seed(0)
    settings = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 3, "heads": 2, "classes": 3, "queries": 5}
    return EomtVit(**{**settings, "query_blocks": 2, "registers": 1, "up": 1, **options})


def test_states_of_the_raster_come_last() -> None:
    tokens = tower().eval()(Image(pixels=torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)))
    assert tokens.states.shape == (2, 2 + 4, 16)
    assert tokens.grid == (2, 2)
    assert torch.equal(tokens.pooled, tokens.states[:, 0])


def test_masked_blocks_give_their_segments_too_and_others_only_in_training() -> None:
    made, image = tower(), Image(pixels=torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8))
    assert len(made.query(image)) == 3
    made.mask_probability.zero_()
    assert len(made.query(image)) == 3
    assert len(made.eval().query(image)) == 1


def test_it_learns_by_the_task_panoptic(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, data = VisionLanguageModel(vision=tower()), batch(tmp_path)
    names = ("red circle", "blue square", "picture")
    task = Panoptic(segment_names=names, states_width=16, head="tower", points=64, weight=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        value = task(model, data, compute_features(model, data, task.uses)).value
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[-1] < losses[0] / 1.5
    assert all(p.grad is not None for p in model.vision.parameters())
    with pytest.raises(UserError, match="head=queries"):
        task(VisionLanguageModel(vision=torch.nn.Identity()), data, compute_features(model, data, task.uses))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="query_blocks=4"):
        tower(query_blocks=4)
    with pytest.raises(UserError, match="for a tower of 16"):
        tower()(Image(pixels=torch.zeros(1, 3, 24, 16, dtype=torch.uint8)))
