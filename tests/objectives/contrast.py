"""One contrastive objective on a toy model in float64: its loss and all gradients, on one process and on two."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.processes import run_processes
from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.models.momentum import MomentumCopy
from vlp.objectives.base import Objective
from vlp.objectives.filip import FILIP
from vlp.objectives.itc import ITC
from vlp.objectives.itm import ITM
from vlp.objectives.mlm import MLM
from vlp.objectives.siglip import SigLIP
from vlp.structures import Batch, Features


class Step(nn.Module):
    """What the LightningModule does with one objective, as a module that DistributedDataParallel can wrap."""

    def __init__(self, objective: Objective, chunk: int | None) -> None:
        super().__init__()
        fused, late = isinstance(objective, (ITM, MLM)), isinstance(objective, FILIP)
        self.model = toy_model(
            logit_bias=-10.0 if isinstance(objective, SigLIP) else None, fused=fused, late=late
        ).double()
        self.objective, self.chunk = objective.double(), chunk
        self.momentum = None
        if any(field.startswith("momentum") for field in objective.uses):
            self.momentum = MomentumCopy(self.model, {"head": objective}, decay=0.9)
            with torch.no_grad():  # as after some steps
                for parameter in self.momentum.parameters():
                    parameter.add_(0.3 * parameter.sin())
        if fused or late:  # hard negatives are drawn by similarities without gradient
            self.model.projection.requires_grad_(False)

    def forward(self, batch: Batch) -> torch.Tensor:
        if self.momentum is not None:
            self.momentum.step()
        features = compute_features(
            self.model, batch, self.objective.uses, chunk=self.chunk, step=5, momentum=self.momentum
        )
        return self.objective(self.model, batch, features).value


def gradients(step: nn.Module, batch: Batch) -> dict[str, Any]:
    loss = step(batch)
    loss.backward()
    named = {name.removeprefix("module."): p.grad for name, p in step.named_parameters()}
    named = {name: gradient for name, gradient in named.items() if gradient is not None}
    frozen = {name.removeprefix("module.") for name, p in step.named_parameters() if not p.requires_grad}
    assert len(named) + len(frozen) == len(list(step.parameters())), "a parameter got no gradient"
    plain = step.module if isinstance(step, DistributedDataParallel) else step
    return {"loss": loss.item(), "gradients": named, "buffers": dict(plain.objective.named_buffers())}


def make(name: str) -> Objective:
    torch.manual_seed(3)
    if name == "queue":  # no multiple of the batch, and partly filled by it
        objective: Objective = ITC(queue_size=7, width=5, distillation=0.4, distillation_warmup=10)
        objective.image_queue.enqueue(torch.randn(5, 5), torch.tensor([1, 2, 50, 51, 52]))  # type: ignore[union-attr, attr-defined]
        objective.text_queue.enqueue(torch.randn(5, 5), torch.tensor([1, 2, 50, 51, 52]))  # type: ignore[union-attr, attr-defined]
        return objective
    if name == "mlm":
        objective = MLM(width=4, vocabulary_size=30, mask_prob=0.4, tied=False)
        objective.mask_id = 29
        return objective
    return ITM(width=4) if name == "itm" else {"itc": ITC, "siglip": SigLIP, "filip": FILIP}[name]()


CASES = [
    (name, chunk, rows)
    for name, uneven in (("itc", (8, 4)), ("siglip", (5, 7)))
    for chunk, rows in ((None, (6, 6)), (None, uneven), (4, (6, 6)))
] + [(name, None, rows) for name in ("itm", "mlm", "queue", "filip") for rows in ((6, 6), (5, 7))]


def _on_rank(rank: int, world: int) -> list[dict[str, Any]]:
    results = []
    for name, chunk, rows in CASES:
        start = sum(rows[:rank])
        step = DistributedDataParallel(Step(make(name), chunk))
        results.append(gradients(step, toy_batch(slice(start, start + rows[rank]))))
    return results


@functools.cache
def on_two_ranks() -> list[list[dict[str, Any]]]:
    """Every case on both ranks of one pair of processes, which takes seconds to start."""
    with tempfile.TemporaryDirectory() as folder:
        return run_processes(2, _on_rank, Path(folder))


def assert_two_processes_equal_one(case: tuple[str, int | None, tuple[int, int]]) -> None:
    """Loss on every rank, and each parameter's gradient, against one process on the whole batch without chunks."""
    one = gradients(Step(make(case[0]), None), toy_batch())
    for rank in on_two_ranks():
        two = rank[CASES.index(case)]
        assert abs(one["loss"] - two["loss"]) < 1e-12
        for name, gradient in one["gradients"].items():
            torch.testing.assert_close(two["gradients"][name], gradient, rtol=0, atol=1e-12, msg=name)
        for name, buffer in one["buffers"].items():
            torch.testing.assert_close(two["buffers"][name], buffer, rtol=0, atol=1e-12, msg=name)


def assert_reference(
    objective: Objective, bias_name: str | None, data: Any, prefix: str, loss_name: str, tolerance: float
) -> None:
    """Loss and gradients on given unit features equal the reference's."""
    dtype = torch.from_numpy(data["in_image_features"]).dtype
    image, text = (torch.from_numpy(data[f"in_{k}_features"]).requires_grad_() for k in ("image", "text"))
    model = toy_model(logit_bias=None if bias_name is None else 0.0).to(dtype)
    projection = model.part("projection")
    with torch.no_grad():
        scale = torch.as_tensor(data["in_logit_scale"], dtype=dtype)
        projection.logit_scale.copy_(scale.log())  # given as the factor itself
        if bias_name is not None:
            projection.logit_bias.copy_(torch.as_tensor(data["in_logit_bias"], dtype=dtype))
    ids = torch.arange(len(image))
    batch = Batch(id=ids, sample=ids, seed=ids)
    loss = objective(model, batch, Features(image_embed=image, text_embed=text, owner=ids)).value
    loss.backward()
    for value, name in (
        (loss, loss_name),
        (image.grad, f"{prefix}/grad_image_features"),
        (text.grad, f"{prefix}/grad_text_features"),
    ):
        torch.testing.assert_close(
            value, torch.as_tensor(data[name], dtype=dtype).reshape(value.shape), rtol=0, atol=tolerance
        )
