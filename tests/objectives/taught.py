"""A batch with the embeddings of a teacher, and an objective that learns from them on one process and on two."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from tests.objectives.contrast import Step, gradients
from tests.processes import run_processes
from tests.towers import toy_batch, toy_model
from vlp.objectives.distill_affinity import DistillAffinity
from vlp.objectives.distill_feature import Distillation, DistillFeature
from vlp.structures import Batch, TeacherEmbeddings

WIDTHS = {"same": 5, "wide": 9}  # of the joint spaces of two teachers; the toy model's is 5
NAMES = ("feature", "affinity", "momentum")


def taught_batch(rows: slice = slice(None)) -> Batch:
    generator = torch.Generator().manual_seed(11)
    teachers = {}
    for name, width in WIDTHS.items():
        image, text = (
            F.normalize(torch.randn(12, width, generator=generator, dtype=torch.float64), dim=1)[rows] for _ in range(2)
        )
        teachers[name] = TeacherEmbeddings(image=image, text=text)
    return replace(toy_batch(rows), teachers=teachers)


def data_with_teachers(**scales: float | None) -> Any:
    tables = {name: SimpleNamespace(logit_scale=scale) for name, scale in scales.items()}
    return SimpleNamespace(sources={"toy": SimpleNamespace(teacher_embeddings=tables)})


def make(name: str) -> Distillation:
    torch.manual_seed(3)
    if name == "affinity":
        affinity = DistillAffinity(teacher_scale={"wide": 7.0})
        affinity.prepare(toy_model(), None, data_with_teachers(same=20.0, wide=None))
        return affinity
    teachers = ["wide", "momentum"] if name == "momentum" else None
    return DistillFeature(teachers=teachers, embed_width=5, teacher_widths=WIDTHS)


def make_step(name: str) -> Step:
    step = Step(make(name), None)
    step.model.projection.requires_grad_(name == "affinity")  # nothing else reads the temperature
    return step


def _on_rank(rank: int, world: int) -> list[dict[str, Any]]:
    results = []
    for name in NAMES:
        batch = taught_batch(slice(5) if rank == 0 else slice(5, 12))
        results.append(gradients(DistributedDataParallel(make_step(name)), batch))
    return results


@functools.cache
def _two_processes() -> list[list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        return run_processes(2, _on_rank, Path(folder) / "ranks")


def assert_two_processes_equal_one(name: str) -> None:
    expected = gradients(make_step(name), taught_batch())
    for rank in _two_processes():
        result = rank[NAMES.index(name)]
        assert result["gradients"].keys() == expected["gradients"].keys()
        torch.testing.assert_close(torch.tensor(result["loss"]), torch.tensor(expected["loss"]))
        for key, value in expected["gradients"].items():
            torch.testing.assert_close(result["gradients"][key], value, rtol=1e-9, atol=1e-11, msg=f"{name} {key}")
