from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou

from tests.processes import run_processes
from vlp.models.dense.boxes import to_corners
from vlp.models.dense.detection_loss import Targets, detection_loss
from vlp.models.dense.detector import Detector, PlaceDetector, Proposals
from vlp.structures import Tokens

ONLY = dict.fromkeys(("class", "l1", "giou", "mask", "dice", "objectness"), 1.0)


def _proposals(**fields: Tensor) -> Proposals:
    """Two images, 2 × 2 places, three classes."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, 4, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2
    logits = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    return Proposals(**{"boxes": boxes, "logits": logits, "grid": (2, 2), **fields})


def _targets(boxes: list[list[list[float]]], labels: list[list[int]], **fields: object) -> Targets:
    rows = [torch.tensor(row, dtype=torch.float64).reshape(-1, 4) for row in boxes]
    return Targets(
        boxes=rows,
        positive=[F.one_hot(torch.tensor(row, dtype=torch.int64), 3).bool().reshape(-1, 3) for row in labels],
        **{"crowds": [torch.zeros(0, 4, dtype=torch.float64)] * len(rows), **fields},
    )


def _focal(logit: Tensor, positive: bool) -> Tensor:
    """−α (1 − p)² log p, or −(1 − α) p² log(1 − p)."""
    p = logit.sigmoid()
    return -0.25 * (1 - p) ** 2 * p.log() if positive else -0.75 * p**2 * (1 - p).log()


def test_terms_by_hand() -> None:
    """One thing in the first image that one place predicts exactly but for a shift, none in the second."""
    proposals = _proposals()
    box = to_corners(proposals.boxes)[0, 2] + 0.01
    value, terms = detection_loss(proposals, _targets([[box.tolist()], []], [[1], []]), ONLY)
    expected = sum(
        _focal(proposals.logits[image, place, label], (image, place, label) == (0, 2, 1))
        for image in range(2)
        for place in range(4)
        for label in range(3)
    )
    torch.testing.assert_close(terms["class"], expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(terms["l1"], torch.tensor(0.02, dtype=torch.float64), atol=1e-7, rtol=0)
    giou = generalized_box_iou(box[None], to_corners(proposals.boxes)[0, 2:3])[0, 0]
    torch.testing.assert_close(terms["giou"], 1 - giou, atol=1e-6, rtol=0)
    torch.testing.assert_close(value, terms["class"] + terms["l1"] + terms["giou"])


def test_normalised_by_the_number_of_things() -> None:
    proposals = _proposals()
    boxes = to_corners(proposals.boxes)
    one = detection_loss(proposals, _targets([[boxes[0, 0].tolist()], []], [[1], []]), ONLY)[1]
    nothing = detection_loss(proposals, _targets([[], []], [[], []]), ONLY)[1]
    change = _focal(proposals.logits[0, 0, 1], True) - _focal(proposals.logits[0, 0, 1], False)
    torch.testing.assert_close(
        one["class"], nothing["class"] + change, atol=1e-10, rtol=0
    )  # of 1 thing, and at least 1
    two = detection_loss(proposals, _targets([[boxes[0, 0].tolist()], [boxes[1, 3].tolist()]], [[1], [2]]), ONLY)[1]
    change += _focal(proposals.logits[1, 3, 2], True) - _focal(proposals.logits[1, 3, 2], False)
    torch.testing.assert_close(two["class"], (nothing["class"] + change) / 2, atol=1e-10, rtol=0)


def test_places_inside_crowds_and_on_padding_learn_no_class() -> None:
    """The crowd covers the left half of the first image; the second image has no lower row of places."""
    proposals = _proposals()
    crowd = torch.tensor([[0.0, 0.0, 0.5, 1.0]], dtype=torch.float64)
    targets = _targets([[], []], [[], []], crowds=[crowd, crowd[:0]])
    allowed = torch.tensor([[True] * 4, [True, True, False, False]])
    terms = detection_loss(proposals, targets, ONLY, allowed=allowed)[1]
    learning = [(0, 1), (0, 3), (1, 0), (1, 1)]
    expected = sum(_focal(logit, False) for image, place in learning for logit in proposals.logits[image, place])
    torch.testing.assert_close(terms["class"], expected, atol=1e-10, rtol=0)


def test_a_matched_place_inside_a_crowd_learns_its_class() -> None:
    proposals = _proposals()
    box = to_corners(proposals.boxes)[0, 0]
    everywhere = [torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)] * 2
    terms = detection_loss(proposals, _targets([[box.tolist()], []], [[1], []], crowds=everywhere), ONLY)[1]
    expected = sum(_focal(proposals.logits[0, 0, label], label == 1) for label in range(3))
    torch.testing.assert_close(terms["class"], expected, atol=1e-10, rtol=0)


def test_classes_that_nobody_looked_for_are_no_negatives() -> None:
    """Class 2 is unknown in both images, but a thing that has it learns it."""
    proposals = _proposals()
    box = to_corners(proposals.boxes)[0, 0]
    unknown = torch.tensor([[False, False, True]] * 2)
    terms = detection_loss(proposals, _targets([[box.tolist()], []], [[2], []], unknown=unknown), ONLY)[1]
    expected = sum(_focal(logit, False) for logit in proposals.logits[..., :2].flatten())
    expected = expected + _focal(proposals.logits[0, 0, 2], True)
    torch.testing.assert_close(terms["class"], expected, atol=1e-10, rtol=0)


def test_masks_by_hand() -> None:
    """Two channels of pixels: the mask embedding (20, 0) draws the left half, (0, 20) the right one."""
    halves = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    pixels = halves[None, :, None].expand(2, 2, 2, 2).contiguous()
    embeddings = torch.tensor([20.0, 0.0], dtype=torch.float64).expand(2, 4, 2).contiguous()
    proposals = _proposals(pixels=pixels, embeddings=embeddings)
    left = torch.zeros(1, 8, 8, dtype=torch.bool)
    left[..., :4] = True
    box = to_corners(proposals.boxes)[0, 0].tolist()
    for mask, entropy, dice in ((left, 0.0, 0.0), (~left, 20.0, 0.8)):
        targets = _targets([[box], []], [[0], []], masks=[mask, left[:0]])
        terms = detection_loss(proposals, targets, ONLY)[1]
        assert terms["mask"].item() == pytest.approx(entropy, abs=1e-6)
        assert terms["dice"].item() == pytest.approx(dice, abs=1e-6)  # 1 − 1 / (2 + 2 + 1) where nothing overlaps


def _detector(seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return PlaceDetector(states_width=6, classes=3, embed_width=0, mask_channels=4, up=1, objectness=True).double()


def _case(rows: slice) -> tuple[Tokens, Targets]:
    """Four images of which the last two show nothing."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(4, 9, 6, generator=generator, dtype=torch.float64)
    corners = to_corners(torch.rand(4, 2, 4, generator=generator, dtype=torch.float64) * 0.3 + 0.3)
    masks = torch.rand(4, 2, 12, 12, generator=generator) > 0.5
    things = [2, 1, 0, 0]
    targets = Targets(
        boxes=[corners[i, :n] for i, n in enumerate(things)][rows],
        positive=[F.one_hot(torch.arange(n), 3).bool().reshape(n, 3) for n in things][rows],
        crowds=[corners[i, :0] for i in range(4)][rows],
        masks=[masks[i, :n] for i, n in enumerate(things)][rows],
    )
    return Tokens(states=states[rows], pooled=states[rows, 0], grid=(3, 3)), targets


def _gradients(rows: slice) -> dict[str, Tensor]:
    detector = _detector()
    tokens, targets = _case(rows)
    value, terms = detection_loss(detector(tokens), targets, ONLY)
    value.backward()
    gradients = {name: parameter.grad for name, parameter in detector.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return {"value": value.detach(), **terms, **gradients}


def _of_rank(rank: int, world: int) -> dict[str, Tensor]:
    return _gradients(slice(2) if rank == 0 else slice(2, 4))


def test_two_processes_are_one_where_one_has_no_thing(tmp_path: Path) -> None:
    """Value and terms are equal, and the mean of the gradients, which DistributedDataParallel makes, is that of one process."""
    expected = _gradients(slice(4))
    first, second = run_processes(2, _of_rank, tmp_path)
    for name, value in expected.items():
        together = first[name] if value.ndim == 0 and name in (*ONLY, "value") else (first[name] + second[name]) / 2
        torch.testing.assert_close(together, value, atol=1e-10, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(first["value"], second["value"], atol=1e-12, rtol=0)


def test_a_batch_without_things_has_a_gradient_for_every_parameter() -> None:
    gradients = _gradients(slice(2, 4))
    boxes = [value for name, value in gradients.items() if name.startswith("boxes.")]
    assert boxes
    assert not any(bool(value.any()) for value in boxes)  # of 0
    assert bool(gradients["scores.linear.bias"].any())


def test_the_order_of_things_does_not_matter() -> None:
    proposals = _proposals()
    boxes = to_corners(proposals.boxes)[0, :2] + 0.02
    first = detection_loss(proposals, _targets([boxes.tolist(), []], [[0, 1], []]), ONLY)[0]
    second = detection_loss(proposals, _targets([boxes.flip(0).tolist(), []], [[1, 0], []]), ONLY)[0]
    torch.testing.assert_close(first, second)
