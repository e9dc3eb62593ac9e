from __future__ import annotations

import pytest
import torch
from torch import nn

from vlp.checkpoints.keys import KeyRow, count_layers, load_strictly, to_ours, to_theirs
from vlp.system.errors import UserError

ROWS = [
    KeyRow("blocks.{}.qkv.*", tuple(f"layer_{{}}.{x}.*" for x in "qkv")),
    KeyRow("out", "proj", transpose=True),
    KeyRow("scale", "scale"),
    KeyRow(None, "version"),
]


def test_parts_are_joined_transposed_and_split_again() -> None:
    theirs = {f"layer_{i}.{x}.{kind}": torch.randn(2, 3) for i in (0, 11) for x in "qkv" for kind in ("weight", "bias")}
    theirs |= {"proj": torch.randn(4, 5), "scale": torch.tensor(2.0)}
    ours = to_ours(theirs | {"version": torch.zeros(1)}, ROWS)
    blocks = {f"blocks.{i}.qkv.{kind}" for i in (0, 11) for kind in ("weight", "bias")}
    assert set(ours) == blocks | {"out", "scale"}
    assert torch.equal(ours["blocks.11.qkv.bias"][2:4], theirs["layer_11.k.bias"])
    assert ours["out"].shape == (5, 4)
    back = to_theirs(ours, ROWS)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.items())
    assert count_layers(ours, "blocks.") == 2


def test_what_no_row_knows_is_named() -> None:
    incomplete = {"layer_0.q.weight": torch.zeros(1), "layer_0.k.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"2 keys \(layer_0\.k\.weight, layer_0\.q\.weight\)"):
        to_ours(incomplete, ROWS)
    with pytest.raises(ValueError, match=r"1 key \(bias\) for which the format has no place"):
        to_theirs({"bias": torch.zeros(1)}, ROWS)


def test_heads_that_share_keys_are_not_written_as_if_each_had_its_own() -> None:
    rows = [KeyRow("attention.qkv.weight", tuple(f"{x}.weight" for x in "qkv"))]
    assert to_theirs({"attention.qkv.weight": torch.zeros(12, 4)}, rows)["v.weight"].shape == (4, 4)
    with pytest.raises(UserError, match=r"attention\.qkv\.weight has fewer heads of keys and values than of queries"):
        to_theirs({"attention.qkv.weight": torch.zeros(6, 4)}, rows)


def test_quantised_weights_and_nan_are_refused_by_name() -> None:
    module = nn.Linear(2, 2)
    good = {key: value.clone() for key, value in module.state_dict().items()}
    load_strictly(module, {key: value.half() for key, value in good.items()})
    for damaged, message in (
        (good["weight"].to(torch.int8), r"no floating-point numbers .*weight \(int8\)"),
        (good["weight"].to(torch.complex64), r"weight \(complex64\)"),
        (torch.full((2, 2), float("nan")), r"has NaN in 1 key \(weight\)"),
    ):
        with pytest.raises(UserError, match=message):
            load_strictly(module, {**good, "weight": damaged})
