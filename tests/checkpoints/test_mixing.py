from __future__ import annotations

import pytest
import torch

from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.mixing import mix_checkpoints, mix_tensors

A = {"w": torch.tensor([0.0, 1.0]), "count": torch.tensor(3)}
B = {"w": torch.tensor([4.0, 1.0]), "count": torch.tensor(9)}


def test_weights_between_two() -> None:
    mixed = mix_tensors(A, B, 0.25)
    assert mixed["w"].tolist() == [1.0, 1.0]
    assert (int(mixed["count"]), int(mix_tensors(A, B, 0.5)["count"])) == (3, 9)
    assert mix_tensors(A, B, 0)["w"] is A["w"]
    assert mix_tensors(A, B, 1)["w"] is B["w"]


def test_other_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match="different parts, such as v"):
        mix_tensors(A, {**B, "v": B["w"]}, 0.5)
    with pytest.raises(ValueError, match=r"w has shape \(2,\) in one checkpoint and \(3,\)"):
        mix_tensors(A, {**B, "w": torch.zeros(3)}, 0.5)


def test_checkpoints_with_different_heads_and_tokenizers() -> None:
    first = Checkpoint(config={"model": {}, "objectives": {"itm": {"x": 1}}}, state=A, heads={"itm.w": A["w"]})
    second = Checkpoint(config={"model": {}, "objectives": {"head": {"y": 1}}}, state=B, heads={"head.w": B["w"]})
    mixed = mix_checkpoints(first, second, 0.5)
    assert mixed.state["w"].tolist() == [2.0, 1.0]
    assert mixed.heads.keys() == {"itm.w", "head.w"}
    assert mixed.config["objectives"].keys() == {"itm", "head"}
    with pytest.raises(ValueError, match="from 0"):
        mix_checkpoints(first, second, 1.5)
    first.tokenizer_json, second.tokenizer_json = "{}", "[]"
    with pytest.raises(ValueError, match="different tokenizers"):
        mix_checkpoints(first, second, 0.5)
