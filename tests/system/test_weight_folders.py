"""Which files of a folder are read: the exact name, else the shards of the index; and what is passed over."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlp.checkpoints import tensor_files
from vlp.system.errors import UserError
from vlp.system.weight_folders import HUGGING_FACE, choose_weights, refuse_damaged

SHARDS = {"model-00001-of-00002.safetensors": ["a", "b"], "model-00002-of-00002.safetensors": ["c"]}


def write_shards(folder: Path, *, value: float = 1.0, shards: dict[str, list[str]] = SHARDS) -> None:
    for name, keys in shards.items():
        save_file({key: torch.full((3,), value) for key in keys}, folder / name)
    weight_map = {key: name for name, keys in shards.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def values(folder: Path) -> dict[str, float]:
    """The first element of each tensor."""
    state = tensor_files.read_folder(folder, HUGGING_FACE)
    return {key: float(state[key][0]) for key in sorted(state)}


def test_a_file_beside_the_exact_one_is_left_alone_and_named_once(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    save_file({"a": torch.zeros(3)}, tmp_path / "model_old.safetensors")
    torch.save({}, tmp_path / "optimizer.pt")
    with pytest.warns(UserWarning, match=r"model\.safetensors is read; left alone: model_old\.safetensors$") as record:
        assert values(tmp_path) == {"a": 1.0}
    assert len(record) == 1


def test_the_exact_file_alone_is_read_without_a_word(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    with warnings.catch_warnings(action="error"):
        assert values(tmp_path) == {"a": 1.0}


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    write_shards(tmp_path)
    save_file({"a": torch.zeros(3)}, tmp_path / "model-00001-of-00003.safetensors")  # of another set, saved before
    with pytest.warns(UserWarning, match=r"left alone: model-00001-of-00003\.safetensors"):
        assert values(tmp_path) == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_shards_of_torch_files(tmp_path: Path) -> None:
    weight_map = {}
    for number, key in enumerate("ab"):
        name = f"pytorch_model-0000{number + 1}-of-00002.bin"
        torch.save({key: torch.full((3,), float(number))}, tmp_path / name)
        weight_map[key] = name
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert values(tmp_path) == {"a": 0.0, "b": 1.0}


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"index\.json names model-00002-of-00002\.safetensors, which the folder lacks"):
        values(tmp_path)


def test_a_shard_that_the_index_does_not_name_is_an_error(tmp_path: Path) -> None:
    write_shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}})
    )
    with pytest.raises(UserError, match=r"does not name model-00002-of-00002\.safetensors"):
        values(tmp_path)


def test_an_index_and_shards_with_other_tensors(tmp_path: Path) -> None:
    write_shards(tmp_path)
    save_file({"a": torch.ones(3)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"model-00001-of-00002\.safetensors lacks 1 tensors against its index \(b\)"):
        values(tmp_path)
    save_file({key: torch.ones(3) for key in "abx"}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"holds 1 tensors against its index \(x\)"):
        values(tmp_path)


def test_a_tensor_in_two_shards_is_taken_from_the_one_that_the_index_names(tmp_path: Path) -> None:
    write_shards(tmp_path)
    save_file({"c": torch.ones(3), "a": torch.zeros(3)}, tmp_path / "model-00002-of-00002.safetensors")
    assert values(tmp_path) == {"a": 1.0, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize("content", ['{"weight_map": {}}', "[]", '{"weight_map": {"a": 3}}', '{"metadata": {}}'])
def test_an_index_without_its_map(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match="has no weight_map"):
        values(tmp_path)


def test_an_index_cannot_name_files_of_other_folders(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
    with pytest.raises(UserError, match="no file of its own folder"):
        values(tmp_path)


@pytest.mark.parametrize("damage", ["pointer", "cut", "shard"])
def test_the_format_that_is_complete_is_read(tmp_path: Path, damage: str) -> None:
    torch.save({key: torch.full((3,), 2.0) for key in "abc"}, tmp_path / "pytorch_model.bin")
    if damage == "shard":
        write_shards(tmp_path)
        (tmp_path / "model-00001-of-00002.safetensors").unlink()
        reason = "which the folder lacks"
    else:
        save_file({"a": torch.ones(300)}, tmp_path / "model.safetensors")
        content = (tmp_path / "model.safetensors").read_bytes()[:400]
        pointer = b"version https://git-lfs.github.com/spec/v1\nsize 9\n"
        (tmp_path / "model.safetensors").write_bytes(pointer if damage == "pointer" else content)
        reason = "is a Git LFS pointer" if damage == "pointer" else "is cut off"
    with pytest.warns(UserWarning, match=rf"pytorch_model\.bin is read, as .*{reason}"):
        assert values(tmp_path) == {"a": 2.0, "b": 2.0, "c": 2.0}


def test_where_no_format_is_complete_each_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "pytorch_model.bin").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"model\.safetensors is empty.*; .*pytorch_model\.bin is a web page"):
        choose_weights(tmp_path, HUGGING_FACE)


def test_weights_of_other_names_are_not_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "model.fp16.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"has none of model\.safetensors, .*it has model\.fp16\.safetensors; rename"
    ):
        choose_weights(tmp_path, HUGGING_FACE)


def test_checkpoints_of_all_kinds_are_checked(tmp_path: Path) -> None:
    refuse_damaged(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="has none of"):
        refuse_damaged(tmp_path)
    write_shards(tmp_path)
    refuse_damaged(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors is empty"):
        refuse_damaged(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"best\.ckpt is cut off"):
        refuse_damaged(tmp_path)
