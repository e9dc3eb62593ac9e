"""Which files stand in a run's checkpoints folder, whatever kind they are of, and which of them a run continues from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlp.checkpoints import sharded
from vlp.training.lifecycle.checkpoint_files import (
    LAST,
    PREVIOUS,
    newest_checkpoint,
    publish_folder,
    read_checkpoint,
    remove_unfinished_files,
    sidecar_path,
    write,
)


def put(folder: Path, step: int, kind: str) -> None:
    if kind == "file":
        write(folder / LAST, {"global_step": step})
        return
    unfinished = folder / f".{LAST}.tmp-unfinished"
    unfinished.mkdir(parents=True)
    for rank in range(2):
        sharded.write(unfinished, {"global_step": step} if rank == 0 else {}, rank=rank, processes=2)
    publish_folder(unfinished, folder / LAST)


@pytest.mark.parametrize(
    "kinds", [["file"] * 3, ["shards"] * 3, ["file", "shards", "file"], ["shards", "file", "shards"]]
)
def test_the_last_two_are_kept(kinds: list[str], tmp_path: Path) -> None:
    for step, kind in enumerate(kinds):
        put(tmp_path, step, kind)
    assert {path.name.removesuffix(".json") for path in tmp_path.iterdir()} == {LAST, PREVIOUS}
    assert [read_checkpoint(tmp_path / name)["global_step"] for name in (LAST, PREVIOUS)] == [2, 1]
    for name, kind in ((LAST, kinds[2]), (PREVIOUS, kinds[1])):
        assert sidecar_path(tmp_path / name).exists() == (kind == "file")
    assert newest_checkpoint(tmp_path) == (tmp_path / LAST, {})


def test_what_is_damaged_gives_way_to_the_one_before(tmp_path: Path) -> None:
    for step in range(2):
        put(tmp_path, step, "file")
    content = bytearray((tmp_path / LAST).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / LAST).write_bytes(content)
    path, passed = newest_checkpoint(tmp_path)
    assert path == tmp_path / PREVIOUS
    assert passed == {tmp_path / LAST: f"{tmp_path / LAST} is not what was written (another sha256)"}


def test_a_shard_that_is_cut_off_gives_way_too(tmp_path: Path) -> None:
    for step in range(2):
        put(tmp_path, step, "shards")
    shard = tmp_path / LAST / "shard_1_of_2.pt"
    shard.write_bytes(shard.read_bytes()[:-100])
    path, passed = newest_checkpoint(tmp_path)
    assert path == tmp_path / PREVIOUS
    assert "is not one whole checkpoint" in passed[tmp_path / LAST]


def test_a_bit_that_changed_in_a_shards_numbers_is_found(tmp_path: Path) -> None:
    numbers = torch.arange(1000.0)
    for rank in range(2):
        sharded.write(
            tmp_path, {"weights": sharded.row_slice(numbers[500 * rank :][:500], (1000,))}, rank=rank, processes=2
        )
    assert torch.equal(sharded.read(tmp_path)["weights"], numbers)
    shard = tmp_path / "shard_1_of_2.pt"
    content = bytearray(shard.read_bytes())
    content[content.index(numbers[600:610].numpy().tobytes())] ^= 1
    shard.write_bytes(content)
    assert sharded.describe_damage(tmp_path) == "is not what was written (another checksum in shard_1_of_2.pt)"


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    put(tmp_path, 0, "shards")
    (tmp_path / f".{LAST}.tmp-77").touch()
    (tmp_path / f".{LAST}.tmp-unfinished").mkdir()
    (tmp_path / f".{LAST}.tmp-unfinished" / "shard_0_of_2.pt").touch()
    remove_unfinished_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
