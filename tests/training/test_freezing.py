"""What `freeze` names does not move: parameters and buffers are bit-equal at the end, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.behaviour.curves import RUNS
from tests.runs import load_checkpoint, make_run_folder, train_here
from tests.towers import toy_model
from tests.training.test_module import fit, module
from vlp.models.projection.linear import LinearProjection
from vlp.objectives.itc import ITC
from vlp.system.errors import UserError
from vlp.training.callbacks.ema import EMA

FAMILIES = ("clip_tiny", "clip_resnet", "albef", "vilt", "captions", "questions")
SHORT = (
    "trainer.max_steps=3", "callbacks=[checkpoint,ema]", "callbacks.ema.decay=0.9", "data.images.train=40",
    "trainer.limit_val_batches=0", "monitor=val/scenes/retrieval/rsum",
)  # fmt: skip


def with_batch_norm() -> Any:
    model = toy_model(dropout=0.5)
    model.vision.net.insert(1, nn.BatchNorm1d(16))
    return model


class WatchModes:
    """Modes of the frozen tower at each of its forward passes."""

    def __init__(self, tower: nn.Module) -> None:
        self.modes: list[bool] = []
        tower.register_forward_pre_hook(
            lambda part, _: self.modes.append(any(inner.training for inner in part.modules()))
        )


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_statistics_of_batch_norms_with_averages_and_a_momentum_copy(averaged: bool, momentum: float | None) -> None:
    model = with_batch_norm()
    watched = WatchModes(model.vision)
    before = {name: value.clone() for name, value in model.double().vision.state_dict().items()}
    trained = module(
        model=model, freeze=[r"^model\.vision\."], momentum=momentum, itc=ITC(distillation=0.4 if momentum else 0.0)
    )
    fit(trained, max_epochs=3, callbacks=[EMA(decay=0.7, start=0)] if averaged else [])
    copies = [trained.model] + ([trained.momentum.model] if trained.momentum is not None else [])
    for copy in copies:
        assert all(torch.equal(value, before[name]) for name, value in copy.vision.state_dict().items())
    assert watched.modes
    assert not any(watched.modes)


def test_a_frozen_temperature_is_not_clamped() -> None:
    model = toy_model()
    with torch.no_grad():
        model.projection.logit_scale.fill_(9.0)
    trained = fit(module(model=model, freeze=["logit_scale"]))
    assert isinstance(trained.model.projection, LinearProjection)
    assert float(trained.model.projection.logit_scale.detach()) == 9.0


def test_a_head_of_an_objective() -> None:
    """Its dropout is off, too."""
    objective = ITC()
    objective.head = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    trained = module(itc=objective, freeze=[r"^objectives\.itc\.head"])
    assert not any(part.training for part in objective.head.modules())
    assert objective.training
    assert trained.train() is trained
    assert not objective.head[2].training


def test_a_shared_parameter_is_found_under_each_of_its_names() -> None:
    model = toy_model()
    model.text.second = model.text.net
    trained = module(model=model, freeze=[r"^model\.text\.second"])
    assert not trained.model.text.net.weight.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vision_tower_of_each_family(family: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    scenes = tmp_path_factory.getbasetemp() / "frozen_scenes"
    momentum = ["momentum=0.9"] if family in ("clip_tiny", "albef") else []
    words = [
        word for word in RUNS[family] if not word.startswith(("data.root", "freeze", "monitor", "trainer.max_epochs"))
    ]
    overrides = [*words, *SHORT, *momentum, "freeze=['^model\\.vision\\.']"]
    task = {"vilt": "matching/accuracy", "captions": "captioning/cider_d", "questions": "vqa/accuracy"}.get(
        family, "retrieval/rsum"
    )
    overrides[overrides.index(SHORT[-1])] = f"monitor=val/{'scenes_vqa' if family == 'questions' else 'scenes'}/{task}"
    folder = make_run_folder(tmp_path / "run", *overrides, data=scenes)
    first = initial_state(folder)
    train_here(folder)
    after = load_checkpoint(folder)
    states = (after["state_dict"], after["current_model_state"])
    names = [name for name in first if name.startswith(("model.vision.", "momentum.model.vision."))]
    assert names
    assert all(torch.equal(state[name], first[name]) for state in states for name in names)
    assert any(not torch.equal(after["state_dict"][name], first[name]) for name in first if name.startswith("model."))


def initial_state(folder: Path) -> dict[str, torch.Tensor]:
    import lightning as L

    from vlp.training.assemble import assemble, read_config

    config, stored = read_config(folder / "config.yaml")
    L.seed_everything(config["seed"], workers=True, verbose=False)
    parts = assemble(config, folder, stored)
    return {name: value.clone() for name, value in parts.module.state_dict().items()}


@pytest.mark.parametrize(("pattern", "message"), [("model.(vision", "missing"), ("*", "nothing to repeat")])
def test_a_pattern_that_is_no_regular_expression(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^freeze: .* is no regular expression.*{message}"):
        module(freeze=[pattern])
