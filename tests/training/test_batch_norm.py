"""Batch norms on several processes compute what one process computes, or are named in a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.processes import run_processes
from tests.runs import ROOT, SMALL_CLIP, TWO_PROCESSES, finish_run, load_checkpoint, make_run_folder
from vlp.doctor.batch_checks import check_batch_norms
from vlp.training.batch_norm import SyncedStatistics, synchronize_batch_norms, unsynchronized_batch_norms

ROWS = [3, 2]  # of each rank


def network() -> nn.Sequential:
    """A map to channels with and without space, one norm without weights and one with a cumulative average."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.GELU(), nn.BatchNorm2d(4, affine=False, momentum=None), nn.Flatten(),
        nn.Linear(36, 5), nn.BatchNorm1d(5),
    ).double()  # fmt: skip


def data() -> Tensor:
    return torch.randn(sum(ROWS), 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def train(model: nn.Module, x: Tensor, world: int) -> dict[str, Tensor]:
    """Two steps of gradients; of several processes their sum, as each has some of the rows of a sum."""
    for _ in range(2):
        (model(x).cos() * torch.arange(5)).sum().backward()
    gradients = {f"{name}.grad": parameter.grad for name, parameter in model.named_parameters()}
    if world > 1:
        for gradient in gradients.values():
            torch.distributed.all_reduce(gradient)
    return {**model.state_dict(), **gradients, "rows": model(x).detach()}  # type: ignore[dict-item]


def on_a_rank(rank: int, world: int) -> dict[str, Tensor]:
    model = network()
    synchronize_batch_norms(model, on_gpu=False)
    return train(model, data().split(ROWS)[rank], world)


def test_statistics_and_gradients_are_those_of_the_complete_batch(tmp_path: Path) -> None:
    ranks = run_processes(2, on_a_rank, tmp_path)
    expected = train(network(), data(), 1)
    joined = torch.cat([found.pop("rows") for found in ranks])
    torch.testing.assert_close(joined, expected.pop("rows"), rtol=0, atol=1e-12)
    for found in ranks:
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-11, msg=name)


def test_one_process_is_not_changed_by_a_bit() -> None:
    model = network()
    synchronize_batch_norms(model, on_gpu=False)
    first, second = train(model, data(), 1), train(network(), data(), 1)
    assert all(torch.equal(first[name], second[name]) for name in second)


class WithActivation(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_norms_of_other_classes_and_frozen_ones() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), WithActivation(2), nn.BatchNorm1d(2), nn.LayerNorm(2))
    model[2].eval()
    assert unsynchronized_batch_norms(model) == ["0", "1"]
    synchronize_batch_norms(model, on_gpu=False)
    assert isinstance(model[0], SyncedStatistics)
    assert unsynchronized_batch_norms(model) == ["1"]
    assert type(model[1]) is WithActivation


def test_on_gpus_torchs_own_takes_their_place() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm1d(2)), WithActivation(2))
    model.append(model[0])
    names = list(model.state_dict())
    synchronize_batch_norms(model, on_gpu=True)
    assert [type(part) for part in (model[0], model[1][0], model[2])] == [
        nn.SyncBatchNorm,
        nn.SyncBatchNorm,
        WithActivation,
    ]
    assert model[3] is model[0]
    assert list(model.state_dict()) == names


def test_the_doctor_names_the_layers() -> None:
    config: dict[str, Any] = {"trainer": {"sync_batchnorm": False}}
    found = check_batch_norms(config, 2, ["vision.net.1"])
    assert (found.severity, found.fix) == ("warning", "vlp train trainer.sync_batchnorm=true")
    assert "vision.net.1" in found.what
    assert check_batch_norms(config, 1, ["vision.net.1"]).severity == "fine"
    assert check_batch_norms({"trainer": {"sync_batchnorm": True}}, 2, []).severity == "fine"


def run(folder: Path, processes: int, scenes: Path) -> dict[str, Any]:
    overrides = (
        *TWO_PROCESSES,
        f"trainer.devices={processes}",
        "callbacks=[checkpoint]",
        "trainer.max_steps=3",
        "momentum=0.9",
    )
    make_run_folder(folder, *SMALL_CLIP, *overrides, data=scenes)
    command = [sys.executable, "tests/training/double.py", str(folder / "config.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "batch norm layer" not in done.stderr
    return load_checkpoint(folder)["state_dict"]


@pytest.mark.slow
def test_two_processes_compute_the_statistics_of_one(tmp_path: Path) -> None:
    one, two = (run(tmp_path / str(count), count, tmp_path / "scenes") for count in (1, 2))
    assert any("running_var" in name for name in one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-10, msg=name)


@pytest.mark.slow
def test_without_it_one_warning_names_the_layers(tmp_path: Path) -> None:
    overrides = (*TWO_PROCESSES, "trainer.sync_batchnorm=false", "trainer.max_steps=1")
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, *overrides, data=tmp_path / "scenes")
    printed = finish_run(folder)
    assert printed.count("statistics of each process's own rows") == 1
    assert "vision." in printed.partition("own rows (")[2][:40]
