"""Detectron2's files → a ResNet tower of ours, and with an FPN and a box head the features of given boxes (`regions`).

Three layouts (facebookresearch/detectron2, checkpoint/detection_checkpoint.py and c2_model_loading.py at 02b5c4e):
`.pkl` of its zoo and `.pth` of a training run: {"model": …}, with the names of its models; `.pkl` of ImageNet weights, with the
backbone's names alone; `.pkl` of Caffe2 with names such as `res2_0_branch2a_w`, whose norms are folded to a scale and a shift.

No file says how its images were prepared. The `config.yaml` beside it does, or a `.yaml` of its name; without one, what the
published weights of the same shapes use is assumed, with a warning. Images become RGB: the first convolution is turned over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vlp.checkpoints.checkpoint import Checkpoint, eval_transform
from vlp.checkpoints.detectron2_keys import REGION_ROWS, STAGES, TRUNK, TRUNK_ROWS, model_of, to_zoo_names
from vlp.checkpoints.detectron2_preparation import FAIR_RESNEXT, MSRA, TORCHVISION, Preparation, read_preparation
from vlp.checkpoints.keys import State, count_layers, list_keys, to_ours_and_rest, without_prefix
from vlp.checkpoints.tensor_files import find_beside
from vlp.system import ranks
from vlp.system.errors import UserError

# (bottleneck, layers, stem, planes, groups, width_per_group) of torchvision's models
NAMES: dict[tuple[Any, ...], str] = {
    (False, (2, 2, 2, 2), 64, 64, 1, 64): "resnet18", (False, (3, 4, 6, 3), 64, 64, 1, 64): "resnet34",
    (True, (3, 4, 6, 3), 64, 64, 1, 64): "resnet50", (True, (3, 4, 23, 3), 64, 64, 1, 64): "resnet101",
    (True, (3, 8, 36, 3), 64, 64, 1, 64): "resnet152", (True, (3, 4, 6, 3), 64, 64, 32, 4): "resnext50_32x4d",
    (True, (3, 4, 23, 3), 64, 64, 32, 8): "resnext101_32x8d", (True, (3, 4, 23, 3), 64, 64, 64, 4): "resnext101_64x4d",
    (True, (3, 4, 6, 3), 64, 64, 1, 128): "wide_resnet50_2", (True, (3, 4, 23, 3), 64, 64, 1, 128): "wide_resnet101_2",
}  # fmt: skip


def matches(content: Any) -> bool:
    """Whether the content of a file, as `tensor_files.read` gives it, is Detectron2's."""
    model = model_of(content) if isinstance(content, Mapping) else {}
    keys = {key for key in model if isinstance(key, str)}
    named = all(any(key.endswith(end) for key in keys) for end in ("stem.conv1.weight", "res2.0.conv1.weight"))
    return named or {"conv1_w", "res2_0_branch2a_w"} <= keys


def read(content: Mapping[str, Any], path: Path, architecture: Mapping[str, Any]) -> Checkpoint:
    """architecture: must be empty, as the shapes say all.  Warns of what of the file is not used.  Raises UserError for a backbone
    that is no ResNet of torchvision's blocks."""
    if architecture:
        raise UserError(f"{path} is a ResNet of Detectron2, which takes no {', '.join(architecture)}")
    state = to_zoo_names(content)
    trunk, rest = read_trunk(state, path)
    sizes = resnet_sizes(trunk, path)
    preparation, assumed = _preparation(path, content, state, sizes)
    if preparation.format == "BGR":
        trunk["conv1.weight"] = trunk["conv1.weight"].flip(1)
    regions, rest = read_regions(rest)
    for key in ("pixel_mean", "pixel_std"):
        rest.pop(key, None)
    if rest:
        left = Counter(".".join(key.split(".")[:2]) for key in rest)
        parts = ", ".join(f"{part} ({count})" for part, count in sorted(left.items()))
        ranks.warn_once(f"{path}: {len(rest)} of its tensors are not used: {parts}")
    config: dict[str, Any] = {
        "model": {"_target_": "vlp.models.vlm.VisionLanguageModel", "vision": _tower_config(sizes, preparation)},
        "transform": {"eval": {"_target_": "vlp.data.transforms.MinMaxTransform", "image_size": 800}},
    }
    if not any(key.startswith(("proposal_generator.", "roi_heads.", "head.")) for key in state):
        config["transform"] = eval_transform(224, resize=256)
    if regions:
        config["objectives"] = {"regions": regions_config(regions)}
    return Checkpoint(
        config=config,
        state={f"vision.backbone.{key}": value for key, value in trunk.items()},
        heads={f"regions.{key}": value for key, value in regions.items()},
        assumed=assumed,
    )


def _tower_config(sizes: Mapping[str, Any], preparation: Preparation) -> dict[str, Any]:
    """torchvision's by name where it has one of these sizes."""
    name = NAMES.get(tuple(tuple(value) if isinstance(value, list) else value for value in sizes.values()))
    tower = {"_target_": "vlp.models.vision.resnet.ResNetVision", **sizes}
    if name is not None:
        tower = {"_target_": "vlp.models.vision.torchvision.TorchvisionVision", "name": name, "weights": None}
    stride = preparation.stride_in_1x1 and sizes["bottleneck"]
    return tower | {"image_size": 224, "stride_in_1x1": stride} | preparation.normalization()


def read_trunk(state: State, path: Path) -> tuple[State, State]:
    """The backbone under torchvision's names, in the file's own order of channels, and all other tensors of the file.

    What is missing of a norm is that of the identity: mean 0, variance 1 (Caffe2's are folded).
    """
    rest = {key: value for key, value in state.items() if not key.startswith(TRUNK)}
    trunk, unknown = to_ours_and_rest(without_prefix(state, TRUNK), TRUNK_ROWS)
    rest |= {
        TRUNK + key: unknown.pop(key) for key in list(unknown) if key.startswith("stem.fc.")
    }  # of ImageNet's classes
    if unknown:
        raise UserError(f"{path}: its backbone has {list_keys(unknown)}, which no ResNet of torchvision has")
    for key in [key for key in trunk if key.rpartition(".")[2] == "bias"]:
        norm, like = key.removesuffix(".bias"), trunk[key]
        trunk.setdefault(f"{norm}.running_mean", torch.zeros_like(like))
        trunk.setdefault(f"{norm}.running_var", torch.ones_like(like))
        trunk.setdefault(f"{norm}.num_batches_tracked", torch.tensor(0))
    return trunk, rest


def resnet_sizes(trunk: State, path: Path) -> dict[str, Any]:
    """The sizes as `ResNetVision` takes them.  Raises UserError where a stage is missing."""
    layers = [count_layers(trunk, f"layer{stage}.") for stage in (1, 2, 3, 4)]
    needed = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight"]
    if 0 in layers or any(key not in trunk for key in needed):
        raise UserError(f"{path}: its backbone is no ResNet of four stages; it has {list_keys(trunk)[:300]}")
    narrow, per_group = len(trunk[needed[1]]), trunk[needed[2]].shape[1]
    bottleneck = "layer1.0.conv3.weight" in trunk
    planes = len(trunk["layer1.0.conv3.weight"]) // 4 if bottleneck else narrow
    groups = narrow // per_group if bottleneck else 1
    width = 64 * narrow // (groups * planes)
    return {
        "bottleneck": bottleneck,
        "layers": layers,
        "stem": len(trunk[needed[0]]),
        "planes": planes,
        "groups": groups,
        "width_per_group": width,
    }


def read_regions(rest: State) -> tuple[State, State]:
    """FPN and box head, where the file has them as Faster R-CNN does (two or more fully connected layers and no norms), and what
    remains."""
    regions, others = to_ours_and_rest(rest, REGION_ROWS)
    needed = {
        f"fpn_{part}{stage}.{kind}" for part in ("lateral", "output") for stage in STAGES for kind in ("weight", "bias")
    }
    count = count_layers({key: 0 for key in regions if key.startswith("fc")}, "fc")
    needed |= {f"fc{number}.{kind}" for number in range(1, count + 1) for kind in ("weight", "bias")}
    if regions.keys() == needed and count:
        return regions, others
    return {}, rest


def regions_config(regions: State) -> dict[str, Any]:
    """The node of `RegionFeatures` with these tensors."""
    count = count_layers({key: 0 for key in regions if key.startswith("fc")}, "fc")
    width = len(regions["fpn_output2.weight"])
    return {
        "_target_": "vlp.models.dense.regions.RegionFeatures",
        "level_widths": [regions[f"fpn_lateral{stage}.weight"].shape[1] for stage in STAGES],
        "fpn_width": width,
        "fc_widths": [len(regions[f"fc{number}.weight"]) for number in range(1, count + 1)],
        "resolution": round((regions["fc1.weight"].shape[1] / width) ** 0.5),
    }


def _preparation(
    path: Path, content: Mapping[str, Any], state: State, sizes: Mapping[str, Any]
) -> tuple[Preparation, dict[str, str]]:
    """And what was assumed, as `Checkpoint.assumed` has it."""
    file = find_beside(path, f"{path.stem}.yaml", "config.yaml")
    if file is not None and (found := read_preparation(file)) is not None:
        return found, {}
    if content.get("__author__") == "torchvision":
        return TORCHVISION, {}
    chosen = FAIR_RESNEXT if sizes["groups"] > 1 else MSRA
    stored: dict[str, Any] = {
        key: tuple(state[f"pixel_{key}"].flatten().tolist()) for key in ("mean", "std") if f"pixel_{key}" in state
    }
    chosen = replace(chosen, **stored)
    stride = "first 1×1" if chosen.stride_in_1x1 else "3×3"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (chosen.mean, chosen.std))
    return chosen, {
        "mean": f"{chosen.format} pixels of mean {mean}",
        "std": f"of deviation {std}",
        "stride_in_1x1": f"stages that stride in their {stride} convolution",
    }
