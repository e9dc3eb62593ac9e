from __future__ import annotations

import numpy as np
import pytest
import torch

from vlp.models.dense.boxes import to_centres
from vlp.models.dense.detector import Proposals
from vlp.models.dense.on_photo import find_things, masks_on_photo
from vlp.structures import Image

EXTENT = torch.ones(2)


def _left_half(side: int) -> torch.Tensor:
    logits = torch.full((1, side, side), -5.0)
    logits[..., : side // 2] = 5.0
    return logits


@pytest.mark.parametrize(
    ("frame", "columns"),
    [
        ([0, 0, 8, 4], range(4)),  # the whole photo of 8 × 4 pixels
        ([8, 0, -8, 4], range(4, 8)),  # mirrored
        ([4, 0, 8, 4], range(4, 8)),  # a view that goes on beyond the photo
        ([-4, 0, 8, 4], range(0)),  # its left half lies outside
        ([2, 0, 4, 4], range(2, 4)),  # a crop: nothing outside it
    ],
)
def test_masks_land_in_the_photo(frame: list[float], columns: range) -> None:
    (mask,) = masks_on_photo(_left_half(16), frame=torch.tensor(frame).float(), extent=EXTENT, photo_size=(4, 8))
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[:, list(columns)] = True
    assert torch.equal(mask, expected)


def test_padding_is_no_part_of_the_photo() -> None:
    """The image fills the left half of the padded tensor, and the mask all of that half."""
    (mask,) = masks_on_photo(
        _left_half(16), frame=torch.tensor([0.0, 0, 8, 4]), extent=torch.tensor([0.5, 1.0]), photo_size=(4, 8)
    )
    assert bool(mask[:, :7].all())


def test_things_of_a_padded_letterboxed_and_mirrored_image() -> None:
    """A photo of 200 × 50 pixels (4:1). The first image shows it in a square with bars above and below, the second mirrored, in
    the left three quarters of a tensor that is padded on the right."""
    corners = torch.tensor([[0.1, 0.4, 0.3, 0.6]])
    boxes = torch.stack([to_centres(corners), to_centres(corners * torch.tensor([0.75, 1, 0.75, 1]))])
    image = Image(pixels=torch.zeros(2, 3, 40, 40, dtype=torch.uint8), size=torch.tensor([[40, 40], [40, 30]]))
    frame = torch.tensor([[0.0, -75, 200, 200], [200.0, 0, -200, 50]])
    found = find_things(
        Proposals(boxes=boxes, logits=torch.tensor([[[2.0, -2.0]]] * 2)), image, frame, count=5, threshold=0.5
    )
    np.testing.assert_allclose(found[0].boxes, [[20, 5, 60, 45]], atol=1e-4)
    np.testing.assert_allclose(found[1].boxes, [[140, 20, 180, 30]], atol=1e-4)
    assert found[0].label.tolist() == [0]
    np.testing.assert_allclose(found[0].scores, [1 / (1 + np.exp(-2))], atol=1e-6)


def test_boxes_that_overlap_a_more_probable_one_of_their_class_are_left_out() -> None:
    """Of four boxes in a place of two classes: the second covers three quarters of the first, the fourth lies elsewhere."""
    corners = torch.tensor([[[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.4], [0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]]])
    logits = torch.tensor([[[3.0, -9.0], [2.0, -9.0], [-9.0, 1.0], [0.5, -9.0]]])
    proposals = Proposals(boxes=to_centres(corners), logits=logits)
    image, frame = Image(pixels=torch.zeros(1, 3, 40, 80, dtype=torch.uint8)), torch.tensor([[0.0, 0, 100, 50]])

    def kept(nms: float | None, count: int = 4) -> list[float]:
        (found,) = find_things(proposals, image, frame, count=count, threshold=0.5, nms=nms)
        return [round(float(np.log(score / (1 - score))), 1) for score in found.scores]

    assert kept(None) == kept(0.8) == [3, 2, 1, 0.5]
    assert kept(0.7) == [3, 1, 0.5]  # the third is of another class
    assert kept(0.7, count=2) == [3, 1]
    assert kept(None, count=2) == [3, 2]
