from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.processes import run_processes
from vlp.models.mixup import mixup
from vlp.structures import Image

SEEDS = torch.tensor([90, 11, 45, 7, 300, 2])
PIXELS = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.eye(6, dtype=torch.float64)


def test_each_image_is_mixed_with_one_other_in_the_share_of_its_target() -> None:
    image, targets = mixup(Image(pixels=PIXELS), TARGETS, SEEDS, 0.4)
    torch.testing.assert_close(targets.sum(1), torch.ones(6, dtype=torch.float64))
    assert bool(((targets > 0).sum(1) == 2).all())
    assert bool(((targets > 0).sum(0) == 2).all())  # each is the partner of one
    torch.testing.assert_close(image.pixels.flatten(1), targets @ PIXELS.flatten(1))


def test_shares_follow_the_beta_distribution_and_the_seed() -> None:
    seeds = torch.arange(3000)
    pixels = torch.zeros(3000, 3, 1, 1, dtype=torch.uint8)
    targets = torch.arange(3000.0)[:, None].double()
    same = [mixup(Image(pixels=pixels), targets, seeds, 0.5)[1] for _ in range(2)]
    torch.testing.assert_close(*same)
    shares = mixup(Image(pixels=pixels), torch.eye(3000, dtype=torch.float64), seeds, 0.5)[1].diagonal()
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(0.125, abs=0.01)  # 1 / (4 (2 α + 1))


def test_raw_pixels_stay_raw() -> None:
    pixels = torch.randint(0, 256, (6, 3, 2, 2), dtype=torch.uint8)
    image, targets = mixup(Image(pixels=pixels), TARGETS, SEEDS, 1.0)
    assert image.pixels.dtype == torch.uint8
    expected = (targets @ pixels.flatten(1).double()).round()
    assert float((image.pixels.flatten(1).double() - expected).abs().max()) <= 1


def test_padded_images_are_refused() -> None:
    image = Image(pixels=PIXELS, size=torch.full((6, 2), 2))
    with pytest.raises(ValueError, match="images of one size"):
        mixup(image, TARGETS, SEEDS, 0.4)


def _mix_share(rank: int, world: int) -> list[torch.Tensor]:
    rows = slice(0, 2) if rank == 0 else slice(2, 6)
    image, targets = mixup(Image(pixels=PIXELS[rows]), TARGETS[rows], SEEDS[rows], 0.4)
    return [image.pixels, targets]


def test_two_processes_mix_what_one_does(tmp_path: Path) -> None:
    image, targets = mixup(Image(pixels=PIXELS), TARGETS, SEEDS, 0.4)
    ranks = run_processes(2, _mix_share, tmp_path)
    torch.testing.assert_close(torch.cat([rank[0] for rank in ranks]), image.pixels, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([rank[1] for rank in ranks]), targets, rtol=0, atol=0)
