"""Tensors out of files, without running anything that is in them: safetensors, torch files, TorchScript archives.

A TorchScript archive holds code beside its tensors. `torch.jit.load` would compile that code, so the archive is read
here as data: a pickle in which every module is an inert bag of attributes and nothing else than tensors is made.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vlp.checkpoints import sharded
from vlp.checkpoints.keys import State
from vlp.system.errors import UserError

FORMAT = 1  # of our own files, stored in each as `vlp_format`; raised when what they hold changes its meaning


def read(path: Path) -> Any:
    """What a `torch.save` file or a folder of shards holds (weights only), or the state dict of a safetensors file or
    TorchScript archive.  Raises UserError for what is damaged, would run code, or is a file of ours of a later format."""
    content = _read(path)
    if isinstance(content, dict) and isinstance(format := content.get("vlp_format", FORMAT), int) and format > FORMAT:
        raise UserError(
            f"{path} was written by a later vlp (format {format}; this one reads up to {FORMAT}): pip install --upgrade vlp"
        )
    return content


def _read(path: Path) -> Any:
    if path.is_dir():
        return sharded.read(path)
    if not path.stat().st_size:
        raise UserError(f"{path} is empty")
    if path.suffix == ".safetensors":
        return load_file(path)
    with path.open("rb") as file:
        if not file.read(2).startswith((b"PK", b"\x80")):  # archives, and the pickles of before
            raise UserError(f"{path} is no checkpoint: neither torch nor safetensors wrote it")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return _read_torchscript(archive)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors and plain values, which could run code when it is read: it is refused"
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise UserError(f"{path} is damaged and cannot be read: {' '.join(str(error).split())[:200]}") from error


_STORAGES = {
    f"{t}Storage": getattr(torch, t.lower()) for t in ("Half", "BFloat16", "Float", "Double", "Int", "Long", "Bool")
}


class _Module:
    """Any class of the archive; unpickling fills its `__dict__`."""


class _Archive(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        name = next(n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl"))
        self.root = name.removesuffix("data.pkl")
        super().__init__(archive.open(name))

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return type(name, (_Module,), {})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        dtype = _STORAGES.get(name) if module == "torch" else None
        if dtype is not None:
            return dtype
        raise UserError(f"this TorchScript archive holds a {module}.{name}, which is neither a module nor a tensor")

    def persistent_load(self, identity: tuple[Any, ...]) -> Tensor:
        _, dtype, key, _, _ = identity
        return torch.frombuffer(bytearray(self.archive.read(f"{self.root}data/{key}")), dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)  # refuses what lies outside the storage


def _read_torchscript(archive: zipfile.ZipFile) -> State:
    state: State = {}

    def walk(module: _Module, prefix: str) -> None:
        for name, value in vars(module).items():
            if isinstance(value, _Module):
                walk(value, f"{prefix}{name}.")
            elif isinstance(value, Tensor):
                state[prefix + name] = value.clone()

    walk(_Archive(archive).load(), "")
    return state


def to_float32(state: State) -> State:
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def find_beside(path: Path, *names: str) -> Path | None:
    """The first of these files in the folder of `path` or in the one above, where the originals keep what runs share."""
    places = (folder / name for folder in (path.parent, path.parent.parent) for name in names)
    return next((place for place in places if place.is_file()), None)
