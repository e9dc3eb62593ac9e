"""Names of Detectron2's and Caffe2's ResNets, FPNs and box heads, as tables, and the three layouts of their files.

From facebookresearch/detectron2 at 02b5c4e: checkpoint/detection_checkpoint.py, c2_model_loading.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vlp.checkpoints.keys import KeyRow, State, to_ours_and_rest
from vlp.system.errors import UserError

TRUNK = "backbone.bottom_up."
STAGES = (2, 3, 4, 5)  # of Detectron2's names; torchvision's are 1 to 4

# ours ↔ Detectron2's
TRUNK_ROWS = (
    KeyRow("conv1.weight", "stem.conv1.weight"),
    KeyRow("bn1.*", "stem.conv1.norm.*"),
    *(
        row
        for stage in STAGES
        for ours, theirs in [(f"layer{stage - 1}.{{}}", f"res{stage}.{{}}")]
        for row in (
            *(KeyRow(f"{ours}.conv{n}.weight", f"{theirs}.conv{n}.weight") for n in (1, 2, 3)),
            *(KeyRow(f"{ours}.bn{n}.*", f"{theirs}.conv{n}.norm.*") for n in (1, 2, 3)),
            KeyRow(f"{ours}.downsample.0.weight", f"{theirs}.shortcut.weight"),
            KeyRow(f"{ours}.downsample.1.*", f"{theirs}.shortcut.norm.*"),
        )
    ),
)
REGION_ROWS = (
    KeyRow("fpn_lateral{}.*", "backbone.fpn_lateral{}.*"),
    KeyRow("fpn_output{}.*", "backbone.fpn_output{}.*"),
    KeyRow("fc{}.*", "roi_heads.box_head.fc{}.*"),
)
# Detectron2's ↔ Caffe2's
_NORM = {
    "weight": ("s", "gamma"), "bias": ("b", "beta"), "running_mean": ("rm", "running_mean"), "running_var": ("riv", "running_var"),
}  # fmt: skip
_BRANCHES = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
CAFFE2_ROWS = (
    KeyRow("stem.conv1.weight", "conv1_w"),
    *(KeyRow(f"res{{}}.{{}}.{ours}.weight", f"res{{}}_{{}}_{theirs}_w") for ours, theirs in _BRANCHES.items()),
    *(
        KeyRow(f"{block}.norm.{ours}", f"{old}_bn_{name}")
        for block, old in (
            ("stem.conv1", "res_conv1"),
            ("stem.conv1", "conv1"),
            *((f"res{{}}.{{}}.{branch}", f"res{{}}_{{}}_{theirs}") for branch, theirs in _BRANCHES.items()),
        )
        for ours, names in _NORM.items()
        for name in names
    ),
)
_CAFFE2_REGION_ROWS = (  # {} is the last block of a stage, whose number depends on the depth: one way only
    *(
        KeyRow(f"backbone.fpn_{part}{stage}.{kind}", f"fpn_{theirs}_{kind[0]}")
        for stage in STAGES
        for kind in ("weight", "bias")
        for part, theirs in (
            ("lateral", f"inner_res{stage}_{{}}_sum_lateral"),
            ("lateral", f"inner_res{stage}_{{}}_sum"),
            ("output", f"res{stage}_{{}}_sum"),
        )
    ),
    *(
        KeyRow(f"roi_heads.box_head.fc{n}.{kind}", f"fc{n + 5}_{kind[0]}")
        for n in (1, 2)
        for kind in ("weight", "bias")
    ),
)


def to_zoo_names(content: Mapping[str, Any]) -> State:
    """The tensors of a file of any layout, under the names of a model of the zoo; momenta of the optimizer are dropped."""
    state = {key: value for key, value in model_of(content).items() if isinstance(value, Tensor)}
    if "conv1_w" in state:
        state = {key: value for key, value in state.items() if not key.endswith("_momentum")}
        translated, rest = to_ours_and_rest(state, CAFFE2_ROWS)
        regions, rest = to_ours_and_rest(rest, _CAFFE2_REGION_ROWS)
        return {TRUNK + key: value for key, value in translated.items()} | regions | rest
    stems = [key.removesuffix("stem.conv1.weight") for key in state if key.endswith("stem.conv1.weight")]
    if len(stems) > 1:
        raise UserError(
            f"the file holds several backbones, below {', '.join(sorted(stems))}: save one of them in a file of its own"
        )
    prefixes = [(f"{stems[0]}{part}.", f"{TRUNK}{part}.") for part in ("stem", *(f"res{stage}" for stage in STAGES))]
    prefixes.append(("roi_heads.res5.", f"{TRUNK}res5."))  # of models without an FPN
    renamed = State()
    for key, value in state.items():
        old, new = next(((old, new) for old, new in prefixes if key.startswith(old)), ("", ""))
        renamed[new + key.removeprefix(old)] = value
    return renamed


def model_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((content[key] for key in ("model", "blobs") if isinstance(content.get(key), Mapping)), content)
