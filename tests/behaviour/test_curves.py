"""The comparison of two trees' curves finds differences, and one run recorded twice is equal."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.behaviour.curves import STEPS, main, tensors

RECORDED: dict[str, Any] = {
    "clip": {
        "losses": [{"train/scenes/itc/loss": 2.5}, {"train/scenes/itc/loss": 2.25}],
        "figures": {"test/scenes/retrieval/rsum": 200.0},
        "tensors": {"state_dict/model.a": "00", "optimizer_states/0/state/0/exp_avg": "01"},
    }
}


def compare(folder: Path, one: Any, other: Any) -> int:
    files = folder / "one.json", folder / "other.json"
    for file, content in zip(files, (one, other), strict=True):
        file.write_text(json.dumps(content))
    return main(["--compare", *map(str, files)])


def with_value(*keys: Any, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(RECORDED)
    *outer, last = keys
    node = content["clip"]
    for key in outer:
        node = node[key]
    node[last] = value
    return content


def test_equal_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(tmp_path, RECORDED, RECORDED) == 0
    assert capsys.readouterr().out == "equal: clip\n"


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (with_value("losses", 1, "train/scenes/itc/loss", value=2.2500000000000004), "losses differ from step 1 on"),
        (with_value("losses", value=RECORDED["clip"]["losses"][:1]), "2 steps became 1"),
        (with_value("figures", "test/scenes/retrieval/rsum", value=200.1), "1 of 1 figures differ"),
        (with_value("tensors", "state_dict/model.a", value="02"), "1 of 2 tensors differ (state_dict/model.a)"),
        (with_value("tensors", value={"state_dict/model.b": "00"}), "2 of 2 tensors are missing"),
        ({}, "only the first file has it"),
        (RECORDED | {"vilt": RECORDED["clip"]}, "vilt: only the second file has it"),
    ],
)
def test_a_difference(other: Any, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(tmp_path, RECORDED, other) == 1
    assert sentence in capsys.readouterr().out


def test_each_tensor_has_its_hash(tmp_path: Path) -> None:
    """Of type, shape and bytes: tensors with equal bytes and different shapes have different hashes."""
    weight = torch.arange(6.0)
    state = {"a": weight, "b": weight.view(2, 3), "c": weight.bfloat16(), "d": torch.tensor(3), "e": weight.clone()}
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"state_dict": state, "optimizer_states": [optimizer], "epoch": 1}, tmp_path / "file.ckpt")
    hashes = tensors(tmp_path / "file.ckpt")
    assert set(hashes) == {*(f"state_dict/{name}" for name in state), "optimizer_states/0/state/0/step"}
    assert hashes["state_dict/a"] == hashes["state_dict/e"]
    assert len({hashes[f"state_dict/{name}"] for name in "abcd"}) == 4


def test_unknown_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "out.json"), "clip_huge"])
    assert "there is no clip_huge; choose from clip_tiny" in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_tree_twice(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("one.json", "other.json")]
    for file in files:
        assert main([file, "clip_tiny"]) == 0
    recorded = json.loads(Path(files[0]).read_text())["clip_tiny"]
    assert len(recorded["losses"]) == STEPS
    assert all("train/scenes/itc/loss" in line for line in recorded["losses"])
    assert any(key.startswith("optimizer_states/") for key in recorded["tensors"])
    assert main(["--compare", *files]) == 0
