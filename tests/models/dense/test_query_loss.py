from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from vlp.models.dense.query_loss import LOSSES, TrueSegments, match_segments, query_loss, read_points, uncertain_points
from vlp.models.dense.segments import QueriedSegments
from vlp.random import mix


def truth(count: int, seed: int = 0) -> TrueSegments:
    """Stripes of an 8 × 8 map."""
    mask = torch.zeros(count, 8, 8, dtype=torch.float64)
    for row in range(count):
        mask[row, row * 2 : row * 2 + 2] = 1
    label = torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(seed))
    return TrueSegments(label=label, mask=mask)


def found(rows: int, queries: int = 5) -> QueriedSegments:
    generator = torch.Generator().manual_seed(1)
    classes = torch.randn(rows, queries, 4, generator=generator, dtype=torch.float64)
    masks = torch.randn(rows, queries, 8, 8, generator=generator, dtype=torch.float64)
    return QueriedSegments(classes=classes.requires_grad_(), masks=masks.requires_grad_())


def test_costs_are_mask2formers() -> None:
    """The matching is the best of all for the costs of transformers' matcher."""
    reference = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    generator = torch.Generator().manual_seed(0)
    classes, masks = torch.randn(5, 4, generator=generator), torch.randn(5, 30, generator=generator)
    label, true = torch.tensor([2, 0, 2]), (torch.rand(3, 30, generator=generator) < 0.4).float()
    cost = (
        -2 * classes.softmax(-1)[:, label]
        + 5 * reference.pair_wise_sigmoid_cross_entropy_loss(masks, true)
        + 5 * reference.pair_wise_dice_loss(masks, true)
    )
    best = min(permutations(range(5), 3), key=lambda rows: float(sum(cost[row, i] for i, row in enumerate(rows))))
    queries, order = match_segments(classes, masks, label, true, LOSSES)
    assert dict(zip(order.tolist(), queries.tolist(), strict=True)) == dict(enumerate(best))


def test_terms_are_mask2formers_at_the_same_points() -> None:
    reference = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    segments, true = found(2), [truth(3), truth(2, 1)]
    _, logs = query_loss([segments], true, [5, 6], points=40)
    logits, inside, target = [], [], torch.full((2, 5), 3)
    for row, one in enumerate(true):
        generator = torch.Generator().manual_seed(mix(5 + row, 0))
        same = torch.rand(1, 40, 2, generator=generator).double()
        queries, order = match_segments(
            segments.classes[row], read_points(segments.masks[row], same.expand(5, -1, -1)), one.label,
            read_points(one.mask, same.expand(len(one.mask), -1, -1)), LOSSES,
        )  # fmt: skip
        places = uncertain_points(segments.masks[row, queries], 40, generator)
        target[row, queries] = one.label[order]
        logits.append(read_points(segments.masks[row, queries], places))
        inside.append(read_points(one.mask[order], places))
    rows, at = torch.cat(logits), torch.cat(inside)
    torch.testing.assert_close(logs["mask"], reference.sigmoid_cross_entropy_loss(rows, at, 5).detach())
    torch.testing.assert_close(logs["dice"], reference.dice_loss(rows, at, 5).detach())
    weight = torch.tensor([1, 1, 1, 0.1], dtype=torch.float64)
    expected = F.cross_entropy(segments.classes.mT, target, weight=weight)
    torch.testing.assert_close(logs["class"], expected.detach())


def test_points_are_read_as_mask2former_reads_them_and_most_are_uncertain() -> None:
    maps = torch.linspace(-8, 8, 16).expand(2, 16, 16).contiguous()  # 0 in the middle
    points = uncertain_points(maps, 100, torch.Generator().manual_seed(0))
    assert points.shape == (2, 100, 2)
    near = (points[..., 0] - 0.5).abs() < 0.2
    assert float(near.float().mean()) > 0.75
    corner = read_points(maps, torch.tensor([[[0.5 / 16, 0.5 / 16], [0.5, 0.2]]]).expand(2, -1, -1))
    torch.testing.assert_close(corner, torch.tensor([[-8.0, 0.0]] * 2))


def test_perfect_segments_cost_little_whatever_the_order_of_queries() -> None:
    true = truth(3)
    order = torch.tensor([4, 0, 2])
    classes, masks = torch.full((1, 5, 4), -30.0), torch.full((1, 5, 8, 8), -30.0)
    classes[..., 3] = 30
    classes[0, order] = 60 * F.one_hot(true.label, 4).float() - 30
    masks[0, order] = 60 * true.mask.float() - 30
    value, _ = query_loss([QueriedSegments(classes=classes, masks=masks)], [true], [0], points=50)
    wrong, _ = query_loss([QueriedSegments(classes=classes, masks=-masks)], [true], [0], points=50)
    assert float(value) < float(wrong) / 10  # not 0, as points between two pixels are in part inside


def test_images_without_a_segment_cost_their_queries_alone() -> None:
    segments = found(1)
    value, logs = query_loss([segments], [TrueSegments(label=torch.zeros(0).long(), mask=torch.zeros(0, 8, 8))], [0])
    value.backward()
    expected = -segments.classes.detach().log_softmax(-1)[..., 3].mean()
    torch.testing.assert_close(logs["class"], expected * (0.5 / 1))  # five queries of weight 0.1 count as one
    assert float(logs["mask"]) == float(logs["dice"]) == 0
    assert segments.masks.grad is not None


def test_logits_that_are_no_numbers_do_not_end_the_matching() -> None:
    classes, masks = torch.full((3, 4), torch.nan), torch.full((3, 6), torch.inf)
    queries, order = match_segments(classes, masks, torch.tensor([0, 1]), torch.ones(2, 6), LOSSES)
    assert len(queries) == len(order) == 2
