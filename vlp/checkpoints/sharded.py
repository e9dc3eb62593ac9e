"""A checkpoint in several files, one a process: a folder of `shard_<rank>_of_<processes>.pt`.

Each is a plain `torch.save` file of the rows that its process holds, beside the shape of the whole, so reading them runs
no code of theirs (torch's own format of distributed checkpoints is a pickle) and any number of processes can.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp.system.errors import UserError

_NAME = re.compile(r"shard_(\d+)_of_(\d+)\.pt")


def is_sharded(path: Path) -> bool:
    return path.is_dir() and any(_NAME.fullmatch(file.name) for file in path.iterdir())


def row_slice(part: Tensor, shape: tuple[int, ...]) -> dict[str, Any]:
    """What stands in a shard in place of a tensor of that shape: consecutive rows of it, in order of the ranks."""
    return {"rows": part, "shape": list(shape)}


def write(folder: Path, content: dict[str, Any], *, rank: int, processes: int) -> None:
    with open(folder / f"shard_{rank}_of_{processes}.pt", "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def describe_damage(folder: Path) -> str | None:
    """What is wrong with it, in words that follow its name: shards that are missing, cut off or changed."""
    try:
        _open_shards(folder)
        for file in folder.iterdir():
            if _NAME.fullmatch(file.name):
                with zipfile.ZipFile(file) as records:  # torch writes each tensor's checksum, and does not look at it
                    if records.testzip() is not None:
                        return f"is not what was written (another checksum in {file.name})"
    except (ValueError, RuntimeError, OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        return f"is not one whole checkpoint: {' '.join(str(error).split())[:200]}"
    return None


def read(folder: Path) -> dict[str, Any]:
    """The whole content, as one file would hold it.  Raises UserError."""
    wrong = describe_damage(folder)
    if wrong is not None:
        raise UserError(f"{folder} {wrong}")
    shards = _open_shards(folder)
    return {key: _join_values([shard[key] for shard in shards if key in shard]) for key in shards[0]}


def _open_shards(folder: Path) -> list[dict[str, Any]]:
    found = sorted(file.name for file in folder.iterdir() if _NAME.fullmatch(file.name))
    if not found:
        raise UserError("it has no shards")
    processes = int(_NAME.fullmatch(found[0])[2])  # type: ignore[index]
    names = [f"shard_{rank}_of_{processes}.pt" for rank in range(processes)]
    if set(found) != set(names):
        lacking = sorted(set(names) - set(found)) or sorted(set(found) - set(names))
        raise UserError(f"{lacking[0]} is missing, or one too many")
    return [torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True) for name in names]


def _join_values(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict) and first.keys() == {"rows", "shape"}:
        return torch.cat([value["rows"] for value in values]).reshape(first["shape"])
    if isinstance(first, dict) and len(values) > 1:
        return {key: _join_values([value[key] for value in values]) for key in first}
    if isinstance(first, list) and len(values) > 1:
        return [_join_values(list(items)) for items in zip(*values, strict=True)]
    return first
