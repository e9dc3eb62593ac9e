"""Checkpoints on the disk: whole or absent, each with a sidecar that proves it, and the one before kept.

A file is written under a temporary name in its own folder (Lightning's goes through the system's, which may lie on
another file system: SIGKILL then leaves torn files), synced, and renamed. FILE.json tells its size, sha256, step and
version. `last.ckpt` is kept as `previous.ckpt` before it is replaced, in an order that leaves one of them whole and
proven wherever the process is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from vlp.checkpoints import sharded, tensor_files
from vlp.system.atomic import atomic_write_text, sync_folder
from vlp.system.errors import UserError
from vlp.system.fault_injection import inject

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class _HashingFile(io.RawIOBase):
    """A file that is only written to, front to back, with the sha256 of what went in."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "xb")  # noqa: SIM115  # closed by `close`
        self.hash, self.size = hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.size += len(data)
        self.file.write(data)
        inject("writing", step=None)
        return len(data)

    def finish(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.close()

    def close(self) -> None:
        self.file.close()
        super().close()


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's way to the disk. A file that cannot be written (a full disk) leaves what was there, and its error here,
    where the callback finds it: the other processes wait for this one, so it must not raise alone.
    """

    def __init__(self) -> None:
        self.error: OSError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        try:
            write(Path(path), checkpoint)
        except OSError as error:
            self.error = error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        remove_checkpoint(Path(path))


def write(path: Path, content: dict[str, Any]) -> None:
    """Raises OSError; the file is then as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        file = _HashingFile(temporary)
        try:
            torch.save(content, file)  # type: ignore[arg-type]
            file.finish()
        except RuntimeError as error:  # torch's writer hides the disk's error
            raise _as_disk_error(error) from error
        finally:
            file.close()
        inject("replacing")
        facts = {
            "size": file.size,
            "sha256": file.hash.hexdigest(),
            "step": content.get("global_step"),
            "epoch": content.get("epoch"),
            "ended": content.get("ended"),
            "written": round(time.time(), 3),
        }
        publish_file(temporary, path, facts)
    finally:
        temporary.unlink(missing_ok=True)


def write_shard(folder: Path, content: dict[str, Any], *, rank: int, processes: int) -> OSError | None:
    """A process's shard; the error of a disk that has no room for it."""
    try:
        sharded.write(folder, content, rank=rank, processes=processes)
    except (OSError, RuntimeError) as error:
        cause = _as_disk_error(error)
        if not isinstance(cause, OSError):
            raise
        return cause
    return None


def _as_disk_error(error: BaseException) -> BaseException:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def publish_file(temporary: Path, path: Path, facts: dict[str, Any]) -> None:
    """Gives a written file its name, and its sidecar; what was last becomes previous."""
    if path.is_dir():
        _remove_previous(path)
    elif path.name == LAST and path.exists():
        previous = path.with_name(PREVIOUS)
        if previous.is_dir():
            remove_checkpoint(previous)
        if sidecar_path(path).exists():
            _link_or_copy(sidecar_path(path), sidecar_path(previous))
        _link_or_copy(path, previous)
    atomic_write_text(sidecar_path(path), json.dumps(facts) + "\n")
    os.replace(temporary, path)
    sync_folder(path.parent)


def publish_folder(unfinished: Path, path: Path) -> None:
    """The same for a folder of shards, which has no sidecar."""
    _remove_previous(path)
    unfinished.rename(path)
    sync_folder(path.parent)


def _remove_previous(path: Path) -> None:
    """A folder cannot be replaced in one step: what was previous is removed while last is whole, and last becomes previous."""
    if path.name != LAST or not path.exists():
        remove_checkpoint(path)
        return
    previous = path.with_name(PREVIOUS)
    remove_checkpoint(previous)
    if sidecar_path(path).exists():
        sidecar_path(path).rename(sidecar_path(previous))
    path.rename(previous)


def remove_checkpoint(path: Path) -> None:
    sidecar_path(path).unlink(missing_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """The same file under a second name, without writing it again."""
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    facts = json.loads(sidecar_path(source).read_text(encoding="utf-8"))
    _link_or_copy(source, temporary)
    try:
        publish_file(temporary, target, facts)
    finally:
        temporary.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file; a copy of it on file systems that have no second names."""
    temporary = target.with_name(f".{target.name}.tmp-link-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    os.replace(temporary, target)


def sidecar_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def describe_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file; None = it is what its sidecar says, or it has none and can be read."""
    if path.is_dir():
        return sharded.describe_damage(path)
    if not path.is_file():
        return "is not there"
    try:
        facts = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
        size, digest = facts["size"], facts["sha256"]
    except FileNotFoundError:
        return None if _is_readable(path) else "cannot be read"
    except (ValueError, KeyError, TypeError):
        return f"cannot be compared with {sidecar_path(path).name}, which is damaged"
    if path.stat().st_size != size:
        return f"has {path.stat().st_size:,} bytes instead of {size:,}"
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == digest else "is not what was written (another sha256)"


def _is_readable(path: Path) -> bool:
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch raises many kinds
        return False
    return True


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors and plain values.  Raises UserError for a damaged file, and for one that would run code."""
    content = tensor_files.read(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is no checkpoint of a run")
    return content


def newest_checkpoint(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest complete checkpoint of a run to continue from, and a sentence for each that was passed over."""
    passed: dict[Path, str] = {}
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        wrong = describe_damage(path)
        if wrong is None:
            return path, passed
        passed[path] = f"{path} {wrong}"
    if passed and describe_damage(folder / BEST) is None:
        return folder / BEST, passed
    return None, passed


def remove_unfinished_files(folder: Path) -> None:
    """Removes what killed processes left half written; for the process that holds the run's lock."""
    for path in folder.glob(".*.tmp-*"):
        with contextlib.suppress(OSError):
            remove_checkpoint(path)
