"""Optimiser and schedule, from regex groups of parameters; both are built before the model's parameters are known.

Defaults as open_clip's (params.py) for ViT towers: β = (0.9, 0.98), ε = 1e-6, decay 0.2, none on vectors and scalars.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vlp.system.compat.torch import unscale_before_step
from vlp.system.errors import UserError
from vlp.training.freezing import compile_pattern
from vlp.training.muon import Float32Muon

_BLOCK = re.compile(r"\.(?:blocks|layers?|resblocks|stages|features)\.(\d+)\.")


def _check(key: str, value: Any, right: bool, expected: str) -> None:
    """Raises UserError."""
    if not right:
        raise UserError(f"{key}={value}: give {expected}")


def check_group(place: str, group: Any) -> None:
    """One of `optimizer.groups`: a key or a value that would be ignored, or fail at the first step, is a UserError."""
    if not isinstance(group, dict) or not {"pattern"} <= group.keys() <= {"pattern", "lr", "weight_decay"}:
        raise UserError(
            f"{place}={group}: give {{pattern: REGEX, lr: …, weight_decay: …}}, of which pattern is necessary"
        )
    compile_pattern(f"{place}.pattern", group["pattern"])
    for key in group.keys() - {"pattern"}:
        number = isinstance(group[key], (int, float)) and not isinstance(group[key], bool)
        _check(f"{place}.{key}", group[key], number and 0 <= group[key] < math.inf, "a number, 0 or more")


class AdamW:
    """Builds torch's fused AdamW over a module's trainable parameters.

    lr: peak learning rate.  weight_decay: of matrices; biases, gains and the temperature have none.
    groups: (regex of parameter names, lr[, weight_decay]) mappings, first match wins; a pattern that matches no
    trainable parameter is an error.  layer_decay: each block of a tower learns `layer_decay` times as fast as the one
    above it (BEiT, arXiv:2106.08254); 1 = off.
    """

    def __init__(
        self,
        *,
        lr: float,
        betas: Sequence[float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
        groups: Sequence[dict[str, Any]] = (),
        layer_decay: float = 1.0,
    ) -> None:
        _check("optimizer.lr", lr, 0 < lr < math.inf, "a number above 0")
        pair = len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
        _check("optimizer.betas", list(betas), pair, "two numbers, each from 0 to less than 1")
        _check("optimizer.eps", eps, 0 <= eps < math.inf, "0 or more")
        _check("optimizer.weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 or more")
        _check("optimizer.layer_decay", layer_decay, 0 < layer_decay <= 1, "a number above 0, 1 at most")
        for index, group in enumerate(groups):
            check_group(f"optimizer.groups[{index}]", group)
        self.lr, self.betas, self.eps, self.weight_decay = lr, (betas[0], betas[1]), eps, weight_decay
        self.groups, self.layer_decay = list(groups), layer_decay

    def __call__(self, module: nn.Module) -> Optimizer:
        return self.adamw(self.parameter_groups(module))

    def adamw(self, groups: Iterable[dict[str, Any]]) -> Optimizer:
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)
        unscale_before_step(optimizer)
        return optimizer

    def parameter_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """Trainable parameters of equal learning rate and decay together."""
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not named:
            raise UserError("nothing to train: `freeze` covers every parameter")
        for group in self.groups:
            if not any(re.search(group["pattern"], name) for name, _ in named):
                raise UserError(f"optimizer.groups: the pattern {group['pattern']!r} matches no trainable parameter")
        scales = layer_scales([name for name, _ in named], self.layer_decay)
        grouped: dict[tuple[float, float], dict[str, Any]] = {}
        for name, parameter in named:
            own = next((g for g in self.groups if re.search(g["pattern"], name)), {})
            lr = own.get("lr", self.lr) * scales[name]
            decay = own.get("weight_decay", self.weight_decay) if parameter.ndim > 1 else 0.0
            entry = grouped.setdefault((lr, decay), {"params": [], "lr": lr, "weight_decay": decay})
            entry["params"].append(parameter)
        return list(grouped.values())


class Muon(AdamW):
    """Builds Muon for the model's linear maps, whose momentum is made orthogonal before it is a step (Jordan et al., 2024,
    kellerjordan.github.io/posts/muon; torch.optim.Muon), beside AdamW for everything else: embeddings, convolutions,
    vectors and the objectives' heads.

    matrix_lr: peak learning rate of the linear maps, times √(rows / columns) where they have more rows; other arguments are
    AdamW's, and its groups and layer_decay scale both.  momentum: of Muon.  convolutions: whether a kernel is a linear map
    as well, from patches to channels.  iterations: the precision of torch's, bfloat16, or float32 for processors without
    bfloat16 instructions, where it takes a tenth of the time.
    """

    def __init__(
        self,
        *,
        matrix_lr: float = 0.02,
        momentum: float = 0.95,
        convolutions: bool = False,
        iterations: str = "bfloat16",
        **others: Any,
    ) -> None:
        super().__init__(**others)
        if iterations not in ITERATIONS:
            raise UserError(f"optimizer.iterations={iterations!r}: choose {' or '.join(ITERATIONS)}")
        self.muon = ITERATIONS[iterations]
        self.kinds: tuple[type[nn.Linear | nn.Conv2d], ...] = (nn.Linear, nn.Conv2d) if convolutions else (nn.Linear,)
        _check("optimizer.matrix_lr", matrix_lr, 0 < matrix_lr < math.inf, "a number above 0")
        _check("optimizer.momentum", momentum, 0 <= momentum < 1, "a number from 0 to less than 1")
        self.matrix_lr, self.momentum = matrix_lr, momentum

    def __call__(self, module: nn.Module) -> Optimizer:
        maps = [part.weight for part in module.model.modules() if isinstance(part, self.kinds)]  # type: ignore[union-attr]
        inside = {id(weight) for weight in maps}
        matrices, rest = [], []
        for group in self.parameter_groups(module):
            kinds: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
            for parameter in group["params"]:
                kinds[id(parameter) in inside].append(parameter)
            scaled = group | {"lr": group["lr"] / self.lr * self.matrix_lr}
            rest += [group | {"params": kinds[0]}] if kinds[0] else []
            matrices += [scaled | {"params": kinds[1]}] if kinds[1] else []
        if not matrices:
            raise UserError("optimizer=muon: the model has no linear map to train; choose optimizer=adamw")
        muon = self.muon(
            [group | {"params": _matrix_views(group["params"])} for group in matrices], momentum=self.momentum
        )
        for group, kernels in zip(muon.param_groups, matrices, strict=True):
            group["params"] = kernels["params"]
        return CombinedOptimizer(muon, *([self.adamw(rest)] if rest else []))


ITERATIONS: dict[str, type[torch.optim.Muon]] = {"bfloat16": torch.optim.Muon, "float32": Float32Muon}


def _matrix_views(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Matrices of the same memory, with the same gradients; torch's Muon takes nothing else. Columns stand in the order of
    memory, which an orthogonal step does not depend on."""
    matrices = []
    for parameter in parameters:
        strides: tuple[int, ...] = parameter.stride()
        order = (0, *sorted(range(1, parameter.ndim), key=strides.__getitem__, reverse=True))
        matrix = parameter.detach().permute(order).view(len(parameter), -1)
        if parameter.grad is not None:
            matrix.grad = parameter.grad.permute(order).reshape(len(parameter), -1)
        matrices.append(matrix)
    return matrices


def _use_matrix_views(muon: torch.optim.Muon) -> None:
    """In place of its kernels, matrices; of its state, the same records under other keys."""
    state: defaultdict[Tensor, Any] = defaultdict(dict)
    groups = []
    for group in muon.param_groups:
        matrices = _matrix_views(group["params"])
        state.update((matrix, muon.state[kernel]) for matrix, kernel in zip(matrices, group["params"], strict=True))
        groups.append(group | {"params": matrices})
    muon.param_groups, muon.state = groups, state


class CombinedOptimizer(Optimizer):
    """Several optimisers of different parameters as one, with one state."""

    def __init__(self, *parts: Optimizer) -> None:
        self.parts, self.counts = parts, [len(part.param_groups) for part in parts]
        super().__init__([group for part in parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = iter(self.param_groups)
        for part, count in zip(self.parts, self.counts, strict=True):
            # again at each step, as loading a state replaces both
            part.param_groups, part.state = list(itertools.islice(groups, count)), self.state
            if isinstance(part, torch.optim.Muon):
                _use_matrix_views(part)
            part.step()
        return loss


def layer_scales(names: Iterable[str], decay: float) -> dict[str, float]:
    """decay^(blocks above) for each parameter of a tower; what comes before the first block counts as block 0,
    what comes after the last one (final norm, projection, heads) is not slowed."""
    names = list(names)
    scales = dict.fromkeys(names, 1.0)
    if decay == 1.0:
        return scales
    for tower in ("model.vision.", "model.text."):
        blocks = {n: int(found[1]) + 1 for n in names if n.startswith(tower) and (found := _BLOCK.search(n))}
        top, seen = max(blocks.values(), default=0) + 1, False
        for name in (n for n in names if n.startswith(tower)):
            seen = seen or name in blocks
            scales[name] = decay ** (top - blocks.get(name, top if seen else 0))
    return scales


class WarmupCosine:
    """Linear warm-up to the peak, then a cosine down to `min_lr_ratio` of the peak at the last step.

    warmup: optimiser steps, or a fraction of all of them if below 1.  Steps are counted from vlp's own sampler.
    """

    def __init__(self, *, warmup: int | float = 0.1, min_lr_ratio: float = 0.0) -> None:
        _check("schedule.warmup", warmup, 0 <= warmup < math.inf, "optimizer steps, or a fraction of all steps below 1")
        _check("schedule.min_lr_ratio", min_lr_ratio, 0 <= min_lr_ratio <= 1, "a fraction of the peak, from 0 to 1")
        self.warmup, self.min_lr_ratio = warmup, min_lr_ratio

    def factor(self, step: int, total: int) -> float:
        warmup = round(self.warmup * total) if self.warmup < 1 else int(self.warmup)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))

    def __call__(self, optimizer: Optimizer, total: int) -> LambdaLR:
        if self.warmup >= max(1, total):
            rank_zero_warn(
                f"schedule.warmup={self.warmup}: the run has {total} optimizer steps, so the learning rate never reaches its peak"
            )
        return LambdaLR(optimizer, lambda step: self.factor(step, total))


class Constant(WarmupCosine):
    """Linear warm-up, then the peak to the end."""

    def __init__(self, *, warmup: int | float = 0.0) -> None:
        super().__init__(warmup=warmup, min_lr_ratio=1.0)


class WarmupLinear(WarmupCosine):
    """Linear warm-up to the peak, then a straight line down to `min_lr_ratio` of the peak at the last step (BERT, ViLT)."""

    def factor(self, step: int, total: int) -> float:
        warmup = round(self.warmup * total) if self.warmup < 1 else int(self.warmup)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 1 - (1 - self.min_lr_ratio) * min(1.0, (step - warmup) / max(1, total - warmup))
