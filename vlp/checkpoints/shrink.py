"""A smaller model out of a larger one's own weights, to train on: fewer layers, narrower perceptrons.

TinyCLIP's manual inheritance (Wu et al., arXiv:2309.12314, §3.2): every other layer, and of each perceptron the hidden units with
the largest norms. Attention heads stay as they are, all of them, and so does the width of the tower, so projection, fusion and
heads fit without a change. What is left is worse than the original until it is trained, best with the original as its teacher
(`distill_feature`, `distill_affinity`). A smaller dense model is faster everywhere; zeros in a large one are not.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlp.checkpoints import load
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import State
from vlp.checkpoints.place import weights_sha256
from vlp.checkpoints.settings import warn_of_assumptions
from vlp.system.errors import UserError

HIDDEN_WIDTH = {
    "ClipVit": "mlp_ratio",
    "ClipText": "mlp_ratio",
    "BertText": "hidden_width",
}  # the setting of each tower
TOWERS = ("vision", "text")


def shrink(
    source: Path,
    destination: Path,
    *,
    layers: str | None = None,
    mlp: str | None = None,
    towers: Sequence[str] = (),
    **architecture: Any,
) -> list[str]:
    """Writes a checkpoint of ours, a new file; returns the settings of `model` that fit it.

    layers: a count ("6": evenly spaced, the first and the last among them), a share ("0.5") or the kept ones ("0,2,4", counted from
    0).  mlp: a share of the hidden units, or their count.  towers: "vision", "text" or both; () = all that the checkpoint has.
    architecture: as `vlp.load` takes it.  Raises UserError for a size that the checkpoint does not have.
    """
    if layers is None and mlp is None:
        raise UserError("nothing to leave out: give --layers, --mlp or both")
    if destination.exists():
        raise FileExistsError(f"{destination} exists: give a new place to write to")
    checkpoint = load.read(source, architecture)
    warn_of_assumptions(checkpoint, source)
    present = [name for name in TOWERS if checkpoint.config["model"].get(name)]
    for name in towers or present:
        if name not in present:
            raise UserError(f"{source} has no {name} tower: it has {' and '.join(present) or 'none'}")
        checkpoint = _shrink_tower(checkpoint, name, layers, mlp)
    load.build_model(checkpoint)  # nothing is written that does not load
    checkpoint.config["shrunk_from"] = {"path": str(source), "sha256": weights_sha256(source)}
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as unfinished:
        load.save(replace(checkpoint, momentum={}), Path(unfinished) / destination.name)
        os.replace(Path(unfinished) / destination.name, destination)
    return [
        f"model.{name}.{key}={node[key]}"
        for name in towers or present
        for node in [checkpoint.config["model"][name]]
        for key in ("layers", HIDDEN_WIDTH[node["_target_"].rpartition(".")[2]])
    ]


def _shrink_tower(checkpoint: Checkpoint, name: str, layers: str | None, mlp: str | None) -> Checkpoint:
    node = checkpoint.config["model"][name]
    kind = node["_target_"].rpartition(".")[2]
    if kind not in HIDDEN_WIDTH:
        raise UserError(f"the {name} tower is a {kind}, and those that can be shrunk are {', '.join(HIDDEN_WIDTH)}")
    prefix = f"{name}.blocks."
    depth = 1 + max(
        (int(key.removeprefix(prefix).split(".")[0]) for key in checkpoint.state if key.startswith(prefix)), default=-1
    )
    kept = list(range(depth)) if layers is None else kept_layers(layers, depth, tower=name)
    state: State = {key: value for key, value in checkpoint.state.items() if not key.startswith(prefix)}
    hidden = 0
    for position, layer in enumerate(kept):
        start = f"{prefix}{layer}."
        block = {key.removeprefix(start): value for key, value in checkpoint.state.items() if key.startswith(start)}
        if mlp is not None:
            block |= _narrow(block, mlp, tower=name)
        hidden = len(block["mlp.fc1.bias"])
        state |= {f"{prefix}{position}.{key}": value for key, value in block.items()}
    sizes: dict[str, Any] = {"layers": len(kept)}
    sizes[HIDDEN_WIDTH[kind]] = hidden if HIDDEN_WIDTH[kind] == "hidden_width" else hidden / node["width"]
    model = checkpoint.config["model"] | {name: node | sizes}
    return replace(checkpoint, config=checkpoint.config | {"model": model}, state=state)


def kept_layers(text: str, depth: int, *, tower: str) -> list[int]:
    """Indices, rising, of the layers that `--layers TEXT` keeps of a tower of `depth` layers.  Raises UserError."""
    if "," in text:
        kept = [_integer(part, "--layers", text) for part in text.split(",") if part.strip()]
        if kept != sorted(set(kept)) or not kept or kept[0] < 0 or kept[-1] >= depth:
            raise UserError(
                f"--layers {text}: the {tower} tower has layers 0 to {depth - 1}: list some of them, rising, or choose --tower"
            )
        return kept
    count = _count(text, depth, "--layers", f"the {tower} tower has {depth} layers")
    if count == 1:
        return [0]
    return [(2 * place * (depth - 1) + count - 1) // (2 * (count - 1)) for place in range(count)]


def _narrow(block: State, mlp: str, *, tower: str) -> State:
    """The perceptron of one block with the hidden units that have the largest norms, in their order."""
    hidden = len(block["mlp.fc1.bias"])
    count = _count(mlp, hidden, "--mlp", f"each perceptron of the {tower} tower has {hidden} hidden units")
    units = largest_units(block["mlp.fc1.weight"], block["mlp.fc1.bias"], block["mlp.fc2.weight"], count)
    return {
        "mlp.fc1.weight": block["mlp.fc1.weight"][units].clone(),
        "mlp.fc1.bias": block["mlp.fc1.bias"][units].clone(),
        "mlp.fc2.weight": block["mlp.fc2.weight"][:, units].clone(),
    }


def largest_units(
    weight_in: Float[Tensor, "h d"], bias_in: Float[Tensor, " h"], weight_out: Float[Tensor, "d h"], count: int
) -> Int[Tensor, " k"]:
    """Rising indices of the hidden units whose product of norms, of the weights that they read with and of those that they write
    with, is largest: what a unit can add to the residual stream."""
    reads = torch.cat([weight_in, bias_in[:, None]], 1).double().norm(dim=1)
    norms = reads * weight_out.double().norm(dim=0)
    return norms.sort(descending=True, stable=True).indices[:count].sort().values


def _count(text: str, most: int, option: str, there: str) -> int:
    """A count, or a share with a point in it, of at most `most`."""
    if "." in text:
        try:
            share = float(text)
        except ValueError:
            share = 0.0
        count = round(share * most) if 0 < share <= 1 else 0
    else:
        count = _integer(text, option, text)
    if not 1 <= count <= most:
        raise UserError(f"{option} {text}: {there}: give a number from 1 to {most}, or a share such as 0.5")
    return count


def _integer(part: str, option: str, text: str) -> int:
    try:
        return int(part)
    except ValueError as error:
        raise UserError(f"{option} {text}: {part.strip()!r} is no whole number") from error
