"""Masks as factors equal complete masks, in the loss too, and rows of points equal the masks there."""

from __future__ import annotations

import pytest
import torch

from vlp.models.dense.query_loss import TrueSegments, query_loss
from vlp.models.dense.segments import Discs, FactoredSegments, QueriedSegments


def factored(rows: int = 2) -> FactoredSegments:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).requires_grad_()

    discs = Discs(centre=draw(rows, 6, 2), radius=draw(rows, 6, 1).detach().exp().requires_grad_(), grid=(2, 3))
    return FactoredSegments(
        classes=draw(rows, 8, 4), embeddings=draw(rows, 8, 5), pixels=draw(rows, 5, 4, 6), discs=discs
    )


def truth(count: int) -> TrueSegments:
    mask = torch.zeros(count, 8, 12, dtype=torch.float64)
    for row in range(count):
        mask[row, 2 * row : 2 * row + 3, row : row + 5] = 1
    return TrueSegments(label=torch.arange(count) % 3, mask=mask)


def test_all_masks_are_those_of_some_queries_and_those_at_the_centres_of_pixels() -> None:
    found = factored()
    some = torch.tensor([7, 0, 3])
    y, x = (torch.arange(4) + 0.5) / 4, (torch.arange(6) + 0.5) / 6
    points = torch.stack([x.repeat(4), y.repeat_interleave(6)], 1)[None].double()
    for image, masks in zip(found.of_images(), found.masks, strict=True):
        torch.testing.assert_close(image.of(some), masks[some])
        torch.testing.assert_close(image.at(points), masks.flatten(1).detach(), atol=1e-5, rtol=1e-5)
        assert not image.at(points).requires_grad
    complete = QueriedSegments(classes=found.classes, masks=found.masks)
    for image, masks in zip(complete.of_images(), found.masks, strict=True):
        torch.testing.assert_close(image.of(some), masks[some])
        torch.testing.assert_close(image.at(points), masks.flatten(1).detach(), atol=1e-5, rtol=1e-5)


def test_a_disc_is_4_in_its_middle_and_0_at_its_radius() -> None:
    discs = Discs(centre=torch.tensor([[[1.0, 2.0]]]), radius=torch.tensor([[[0.5]]]), grid=(4, 2))
    points = torch.tensor(
        [[0.5, 0.5], [0.75, 0.5], [0.5, 0.75]]
    )  # x, y: 1 column is half, 1 row a quarter of the image
    logits = discs.logits(discs.centre[0], discs.radius[0], points)
    assert logits[0].tolist() == pytest.approx([4, 0, -4], abs=0.1)


def test_the_loss_of_factors_is_that_of_the_complete_masks_and_so_are_gradients() -> None:
    found, true = factored(), [truth(3), truth(2)]
    discs = found.discs
    inputs = [found.classes, found.embeddings, found.pixels, discs.centre, discs.radius]
    losses = []
    for segments in (found, QueriedSegments(classes=found.classes, masks=found.masks)):
        value, _ = query_loss([segments], true, [1, 2], points=400)
        losses.append((value, torch.autograd.grad(value, inputs)))
    torch.testing.assert_close(losses[0][0], losses[1][0])
    for ours, theirs in zip(losses[0][1], losses[1][1], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_images_without_segments_give_every_factor_a_gradient_of_0() -> None:
    found = factored()
    none = TrueSegments(label=torch.zeros(0).long(), mask=torch.zeros(0, 8, 12).double())
    value, _ = query_loss([found], [none, none], [1, 2], points=10)
    for x in torch.autograd.grad(value, [found.embeddings, found.pixels, found.discs.centre, found.discs.radius]):
        assert not bool(x.any())
