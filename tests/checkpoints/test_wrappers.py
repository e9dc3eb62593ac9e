"""State dicts in entries, under prefixes and beside other objects give the model that they give alone."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.checkpoints.clip_files import clip_state
from tests.checkpoints.fixtures import opened

State = dict[str, Tensor]


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def compiled_towers(state: State) -> State:
    return {
        key.replace("visual.", "visual._orig_mod.").replace("transformer.", "transformer.module."): value
        for key, value in state.items()
    }


WRAPPED = {
    "model_state_dict": lambda s: {"model_state_dict": s, "epoch": 3},
    "module": lambda s: {"module": s, "global_steps": 7},
    "model.state_dict": lambda s: {"model": {"state_dict": s}},
    "an entry of any name": lambda s: {"clip_weights": s},
    "prefix model.": lambda s: prefixed(s, "model."),
    "prefix clip. in Lightning's": lambda s: {"state_dict": prefixed(s, "model.clip."), "pytorch-lightning_version": "2.6"},
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled in DDP": lambda s: {"state_dict": prefixed(s, "module._orig_mod.")},
    "DDP of compiled towers": lambda s: {"model": prefixed(compiled_towers(s), "_orig_mod.module.")},
    "FSDP with checkpointing": lambda s: prefixed(s, "_fsdp_wrapped_module._checkpoint_wrapped_module."),
    "an optimiser beside it": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    "plain values among them": lambda s: {**s, "epoch": 3, "arch": "ViT"},
    "logit_scale of shape [1]": lambda s: {**s, "logit_scale": s["logit_scale"].reshape(1)},
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_state_dict_is_that_state_dict(tmp_path: Path, name: str) -> None:
    torch.save(clip_state(), tmp_path / "plain.pt")
    torch.save(WRAPPED[name](clip_state()), tmp_path / "wrapped.pt")
    plain, wrapped = (opened(tmp_path / f"{kind}.pt", activation="gelu").state_dict() for kind in ("plain", "wrapped"))
    assert plain.keys() == wrapped.keys()
    assert all(torch.equal(plain[key], wrapped[key]) for key in plain)


OBJECTS: dict[str, Any] = {
    "argparse": argparse.Namespace(lr=1e-3, output=pathlib.Path("out"), nested=argparse.Namespace(a=[1])),
    "SimpleNamespace": types.SimpleNamespace(lr=1e-3),
    "defaultdict": collections.defaultdict(int, a=1),
    "NumPy figures": {"best": np.float64(0.5), "curve": np.arange(3.0)},
    "time": datetime.datetime(2020, 1, 1),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_of_options_and_figures_do_not_hide_the_weights(tmp_path: Path, name: str, zipped: bool) -> None:
    content = {"args": OBJECTS[name], "model": clip_state()}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    model = opened(tmp_path / "a.pt", activation="gelu")
    assert torch.equal(model.vision.class_token, clip_state()["visual.class_embedding"])


class Options(argparse.Namespace):
    def __setstate__(self, state: dict[str, object]) -> None:
        raise AssertionError("code of the file ran")


def test_what_stands_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    torch.save({"args": Options(lr=1), "model": clip_state()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"\(a tests\.checkpoints\.test_wrappers\.Options\), which could run code"):
        opened(tmp_path / "a.pt")


def test_averaged_weights_beside_others_are_left_alone_and_named(tmp_path: Path) -> None:
    state = clip_state()
    torch.save(
        {"state_dict": state, "state_dict_ema": {key: value + 1 for key, value in state.items()}}, tmp_path / "a.pt"
    )
    with pytest.warns(UserWarning, match="its entry state_dict is read; state_dict_ema is left alone"):
        model = opened(tmp_path / "a.pt", activation="gelu")
    assert torch.equal(model.vision.class_token, state["visual.class_embedding"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": clip_state(), "b": clip_state()}, "holds several weights, in a and b"),
        (clip_state() | prefixed(clip_state(), "module."), "two tensors have the same name"),
        ({"state_dict": prefixed(clip_state(), "model.") | {"loss.scale": torch.ones(1)}},
         r"holds a known format below model\. and 1 tensors beside it \(loss\.scale\)"),
        ({"epoch": 3, "args": "x"}, "holds no tensors; its entries are args, epoch"),
        ({"model": {"layer.weight": torch.ones(1)}}, r"no format that vlp reads; its keys are layer\.weight"),
    ],
    ids=["several", "collision", "neighbours", "no tensors", "unknown"],
)  # fmt: skip
def test_what_is_ambiguous_or_unknown_is_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / "a.pt")


def test_a_plain_state_dict_gives_no_warning_of_wrappers(tmp_path: Path) -> None:
    torch.save({"state_dict": clip_state(), "epoch": 1}, tmp_path / "a.pt")
    with warnings.catch_warnings(action="error"):
        opened(tmp_path / "a.pt", activation="gelu")
