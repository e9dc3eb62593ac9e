from __future__ import annotations

import pytest
import torch

from vlp.models.dense.detector import PlaceDetector, Proposals, best_detections
from vlp.structures import Tokens
from vlp.system.errors import UserError


def _tokens() -> Tokens:
    torch.manual_seed(0)
    states = torch.randn(2, 7, 6)
    levels = {"fine": torch.randn(2, 5, 4, 6), "finer": torch.randn(2, 3, 8, 12)}
    return Tokens(states=states, pooled=states[:, 0], grid=(2, 3), levels=levels)


def test_classes_texts_and_masks_of_one_head() -> None:
    tokens = _tokens()
    closed = PlaceDetector(states_width=6, classes=4, embed_width=0)(tokens)
    assert closed.boxes.shape == (2, 6, 4)
    assert closed.logits.shape == (2, 6, 4)
    assert closed.pixels is None
    levels = {"levels": ["fine", "finer"], "level_widths": [5, 3]}
    head = PlaceDetector(
        states_width=6,
        classes=None,
        embed_width=7,
        objectness=True,
        mask_channels=8,
        up=1,
        place_levels=["fine"],
        **levels,
    )
    found = head(tokens, torch.randn(3, 7))
    assert found.grid == (4, 6)
    assert found.logits.shape == (2, 24, 3)
    assert found.objectness is not None
    assert found.objectness.shape == (2, 24)
    assert found.mask_logits(torch.tensor([0, 1, 1]), torch.tensor([5, 0, 23])).shape == (3, 4, 6)
    with pytest.raises(UserError, match="are not among levels"):
        PlaceDetector(states_width=6, classes=4, embed_width=0, place_levels=["fine"])


def test_objectness_leaves_the_features_alone() -> None:
    tokens = _tokens()
    states = tokens.states.requires_grad_()
    found = PlaceDetector(states_width=6, classes=4, embed_width=0, objectness=True)(tokens)
    assert found.objectness is not None
    (gradient,) = torch.autograd.grad(found.objectness.sum(), [states], allow_unused=True)
    assert gradient is None


def test_best_pairs_of_place_and_class() -> None:
    """A place may be named twice, and one on padding never; only the chosen classes are named."""
    logits = torch.tensor([[[3.0, 2.0, -9.0], [1.0, 4.0, -9.0], [9.0, 9.0, 9.0]]])
    boxes = torch.rand(1, 3, 4)
    allowed = torch.tensor([[True, True, False]])
    found = best_detections(Proposals(boxes=boxes, logits=logits), count=3, allowed=allowed)
    assert list(zip(found.place[0].tolist(), found.label[0].tolist(), strict=True)) == [(1, 1), (0, 0), (0, 1)]
    torch.testing.assert_close(found.scores[0], torch.tensor([4.0, 3.0, 2.0]).sigmoid())
    torch.testing.assert_close(found.boxes[0, 0, 2:] - found.boxes[0, 0, :2], boxes[0, 1, 2:])
    named = best_detections(Proposals(boxes=boxes, logits=logits), count=2, classes=[0, 2], allowed=allowed)
    assert list(zip(named.place[0].tolist(), named.label[0].tolist(), strict=True)) == [(0, 0), (1, 0)]
    assert best_detections(Proposals(boxes=boxes, logits=logits), count=100).scores.shape == (1, 9)
