"""Files as Detectron2 and Caffe2 write them, of a small grouped Faster R-CNN with random weights, and its parts built from
torchvision's blocks alone."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

LAYERS, STEM, PLANES, GROUPS, PER_GROUP, FPN, FC = (1, 2, 1, 1), 8, 4, 2, 3, 6, 10
_NORM = ("weight", "bias", "running_mean", "running_var")


def zoo_state(*, folded: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """Names and shapes of a Faster R-CNN with an FPN.  folded: norms without statistics, as Caffe2's."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def tensor(name: str, *shape: int) -> None:
        fan = max(1, int(torch.tensor(shape[1:]).prod()))
        state[name] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5

    def convolution(name: str, *shape: int) -> None:
        tensor(f"{name}.weight", *shape)
        for part in _NORM[: 2 if folded else 4]:
            state[f"{name}.norm.{part}"] = torch.rand(shape[0], generator=generator) + 0.5

    trunk = "backbone.bottom_up"
    convolution(f"{trunk}.stem.conv1", STEM, 3, 7, 7)
    channels = STEM
    for stage, count in enumerate(LAYERS):
        wide, narrow = 4 * PLANES * 2**stage, GROUPS * PER_GROUP * 2**stage
        for number in range(count):
            block = f"{trunk}.res{stage + 2}.{number}"
            if number == 0:
                convolution(f"{block}.shortcut", wide, channels, 1, 1)
            convolution(f"{block}.conv1", narrow, channels, 1, 1)
            convolution(f"{block}.conv2", narrow, narrow // GROUPS, 3, 3)
            convolution(f"{block}.conv3", wide, narrow, 1, 1)
            channels = wide
        for part, shape in (("lateral", (FPN, wide, 1, 1)), ("output", (FPN, FPN, 3, 3))):
            tensor(f"backbone.fpn_{part}{stage + 2}.weight", *shape)
            tensor(f"backbone.fpn_{part}{stage + 2}.bias", FPN)
    for name, shape in (("fc1", (FC, FPN * 49)), ("fc2", (FC, FC))):
        tensor(f"roi_heads.box_head.{name}.weight", *shape)
        tensor(f"roi_heads.box_head.{name}.bias", shape[0])
    tensor("proposal_generator.rpn_head.conv.weight", FPN, FPN, 3, 3)
    tensor("roi_heads.box_predictor.cls_score.weight", 4, FC)
    return state


def trunk_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix, as ImageNet weights are written."""
    prefix = "backbone.bottom_up."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def caffe2_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A folded zoo state under Caffe2's names."""
    blocks = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
    kinds = {"weight": "w", "bias": "b"}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        parts = key.split(".")
        kind = kinds.get(parts[-1], "")
        if "stem" in parts:
            name = "conv1_w" if "norm" not in parts else f"res_conv1_bn_{'s' if kind == 'w' else 'b'}"
        elif parts[1] == "bottom_up":
            norm = "bn_s" if kind == "w" else "bn_b"
            name = f"{parts[2]}_{parts[3]}_{blocks[parts[4]]}_{norm if 'norm' in parts else 'w'}"
        elif parts[1].startswith("fpn_"):
            stage = int(parts[1][-1])
            last = LAYERS[stage - 2] - 1
            inner = f"fpn_inner_res{stage}_{last}_sum{'' if stage == 5 else '_lateral'}_{kind}"
            name = inner if "lateral" in parts[1] else f"fpn_res{stage}_{last}_sum_{kind}"
        elif parts[1] == "box_head":
            name = f"fc{int(parts[2][2]) + 5}_{kind}"
        else:
            name = {"proposal_generator": "conv_rpn_fpn2", "roi_heads": "cls_score"}[parts[0]] + f"_{kind}"
        renamed[name] = value
    return renamed


def write_pickle(
    path: Path, content: Any, *, protocol: int = 4, python_2: bool = False, old_numpy: bool = False
) -> Path:
    """Tensors as arrays.  python_2: strings as those of Python 2 (protocol 2).  old_numpy: names of NumPy 1 (to protocol 3)."""
    data = pickle.dumps(_to_arrays(content), protocol)
    if old_numpy or python_2:
        data = data.replace(b"numpy._core.", b"numpy.core.")
    if python_2:
        changed = bytearray(data)
        for opcode, argument, position in pickletools.genops(data):
            if (
                opcode.name == "BINUNICODE"
                and isinstance(argument, str)
                and argument.isascii()
                and position is not None
            ):
                changed[position] = ord("T")  # a string, whose length is written the same way
        data = bytes(changed)
    path.write_bytes(data)
    return path


def _to_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_arrays(item) for key, item in value.items()}
    return np.asarray(value) if isinstance(value, Tensor) else value
