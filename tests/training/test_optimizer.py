from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.towers import toy_model
from vlp.system.errors import UserError
from vlp.training.optimizer import AdamW, Constant, Muon, WarmupCosine, WarmupLinear, check_group, layer_scales


def test_vectors_and_scalars_are_not_decayed() -> None:
    groups = AdamW(lr=1e-3)(toy_model()).param_groups
    assert {(p.ndim > 1, g["weight_decay"]) for g in groups for p in g["params"]} == {(True, 0.2), (False, 0.0)}


def test_first_matching_group_sets_rate_and_decay() -> None:
    model = toy_model()
    optimizer = AdamW(
        lr=1e-3, groups=[{"pattern": "^text", "lr": 1e-5, "weight_decay": 0.0}, {"pattern": ".", "lr": 2e-3}]
    )
    rates = {id(p): g["lr"] for g in optimizer(model).param_groups for p in g["params"]}
    assert {rates[id(p)] for p in model.text.parameters()} == {1e-5}
    assert {rates[id(p)] for p in model.vision.parameters()} == {2e-3}


def test_pattern_without_parameter_is_an_error() -> None:
    with pytest.raises(ValueError, match="'vison' matches no trainable"):
        AdamW(lr=1e-3, groups=[{"pattern": "vison", "lr": 1.0}])(toy_model())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lr", float("nan")), ("lr", float("inf")), ("betas", [0.9]), ("betas", [0.9, 0.98, 0.5]), ("betas", [0.9, 1.5]),
        ("eps", -1.0), ("weight_decay", -1.0), ("layer_decay", 0.0), ("layer_decay", -0.5), ("layer_decay", 1.1),
    ],
)  # fmt: skip
def test_settings_that_would_be_ignored_or_fail_are_refused(setting: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^optimizer\.{setting}=.*: give "):
        AdamW(**{"lr": 1e-3, setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"pattern": "text", "learning_rate": 1e-5}, r"give \{pattern: REGEX"),
        ({"patern": "text", "lr": 1e-5}, r"give \{pattern: REGEX"),
        ("text", r"give \{pattern: REGEX"),
        ({"pattern": "model.(text", "lr": 1e-5}, "is no regular expression: missing"),
        ({"pattern": 5, "lr": 1e-5}, "5 is no regular expression of parameter names"),
        ({"pattern": "text", "lr": "1e-5x"}, r"lr=1e-5x: give a number"),
        ({"pattern": "text", "lr": -1}, "lr=-1: give a number, 0 or more"),
        ({"pattern": "text", "weight_decay": None}, "weight_decay=None: give a number"),
    ],
)
def test_a_group_is_understood_completely(group: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"^optimizer\.groups\[1\].*{message}"):
        check_group("optimizer.groups[1]", group)
    if isinstance(group, dict):
        with pytest.raises(UserError, match=r"^optimizer\.groups\[1\]"):
            AdamW(lr=1e-3, groups=[{"pattern": "vision", "lr": 0}, group])


@pytest.mark.parametrize(
    "setting", [{"warmup": -3}, {"warmup": float("nan")}, {"min_lr_ratio": 7.0}, {"min_lr_ratio": -1.0}]
)
def test_a_schedule_out_of_range_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"^schedule\.{next(iter(setting))}="):
        WarmupCosine(**setting)


@pytest.mark.parametrize("schedule", [WarmupCosine, Constant, WarmupLinear])
def test_a_warm_up_longer_than_the_run_is_said(schedule: type[WarmupCosine]) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    with pytest.warns(
        UserWarning, match=r"warmup=100: the run has 40 optimizer steps, so the learning rate never reaches"
    ):
        schedule(warmup=100)(optimizer, 40)


def test_everything_frozen_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        AdamW(lr=1e-3)(toy_model().requires_grad_(False))


def test_layer_decay_falls_towards_the_input() -> None:
    names = [f"model.vision.{n}" for n in ("conv1.weight", "blocks.0.w", "blocks.1.w", "norm.weight")] + [
        "model.projection.w"
    ]
    assert list(layer_scales(names, 0.5).values()) == [0.125, 0.25, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("warmup", [10, 0.1])
def test_warm_up_then_cosine(warmup: float) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    scheduler = WarmupCosine(warmup=warmup, min_lr_ratio=0.1)(optimizer, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(2 / 11)
    assert max(rates) == rates[10] == 2.0
    assert rates[55] == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


def test_constant_stays_at_the_peak() -> None:
    schedule = Constant(warmup=3)
    assert [schedule.factor(step, 100) for step in (0, 1, 2, 3, 99)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_muon_goes_on_from_its_state() -> None:
    """Orthogonal steps for linear maps, AdamW's for the rest; stopped and resumed, it does what it would have done."""

    def module() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))
        return nn.ModuleDict({"model": model, "objectives": nn.Linear(4, 2)})

    def steps(part: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            part["objectives"](part["model"](torch.arange(5))).square().sum().backward()  # type: ignore[index]
            optimizer.step()

    make = Muon(lr=1e-2, matrix_lr=0.1, weight_decay=0.0)
    straight, stopped, resumed = module(), module(), module()
    before = straight["model"][1].weight.detach().clone()  # type: ignore[index]
    optimizer = make(straight)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2, 0.1}
    steps(straight, optimizer, 1)
    step = straight["model"][1].weight.detach() - before  # type: ignore[index]
    singular = torch.linalg.svdvals(step)[:5] / 0.1  # of five tokens, so of rank five
    assert 0.5 < singular.min() < singular.max() < 1.5
    steps(straight, optimizer, 5)
    first = make(stopped)
    steps(stopped, first, 3)
    second = make(resumed)
    resumed.load_state_dict(stopped.state_dict())
    second.load_state_dict(first.state_dict())
    steps(resumed, second, 3)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_muon_takes_a_kernel_for_a_linear_map_from_patches() -> None:
    """As the same weights in a linear layer that sees the patches would be stepped, whatever their memory format."""
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(3, 8, 2, stride=2, bias=False), nn.Linear(12, 8, bias=False)
    linear.weight.data = conv.weight.detach().flatten(1).clone()
    last = nn.Conv2d(3, 8, 2, stride=2, bias=False).to(memory_format=torch.channels_last)
    last.weight.data.copy_(conv.weight.detach())
    modules = [nn.ModuleDict({"model": nn.ModuleList([part])}) for part in (conv, linear, last)]
    make = Muon(lr=1e-2, matrix_lr=0.1, weight_decay=0.1, convolutions=True)
    optimizers = [make(module) for module in modules]
    images = torch.randn(4, 3, 2, 2)
    for _ in range(3):
        for part, optimizer in zip((conv, linear, last), optimizers, strict=True):
            optimizer.zero_grad()
            found = part(images.flatten(1)) if part is linear else part(images).flatten(1)
            (found - 1).square().sum().backward()
            optimizer.step()
    assert torch.allclose(conv.weight.flatten(1), linear.weight, atol=1e-6)
    assert torch.allclose(conv.weight, last.weight, atol=1e-6)
    again = make(modules[0])
    again.load_state_dict(optimizers[0].state_dict())
    kept = next(iter(again.state_dict()["state"].values()))["momentum_buffer"]
    assert torch.equal(kept, next(iter(optimizers[0].state_dict()["state"].values()))["momentum_buffer"])
