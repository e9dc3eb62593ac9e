"""Tensors out of files, without running anything in them: safetensors, torch files, pickles of arrays, TorchScript archives.

A TorchScript archive holds code beside its tensors. `torch.jit.load` would compile that code, so the archive is read
here as data: a pickle in which every module is an inert bag of attributes and nothing else than tensors is made.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vlp.checkpoints import sharded
from vlp.checkpoints.keys import State
from vlp.checkpoints.wrappers import without_torch_wrappers
from vlp.system import restricted_pickle
from vlp.system.errors import UserError
from vlp.system.weight_files import describe_damage, is_safetensors
from vlp.system.weight_folders import choose_weights

FORMAT = 1  # of our own files, stored in each as `vlp_format`; raised when what they hold changes its meaning
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6: the pickle of its magic number
_DAMAGED = (RuntimeError, EOFError, KeyError, IndexError, ValueError, TypeError, struct.error, SafetensorError)


def read(path: Path) -> Any:
    """What a `torch.save` file or a folder of shards holds (weights only), the values of a pickle with its arrays as tensors, or
    the state dict of a safetensors file or TorchScript archive.  Raises UserError for what is damaged, would run code, or is a
    file of ours of a later format."""
    content = _read(path)
    if isinstance(content, dict) and isinstance(format := content.get("vlp_format", FORMAT), int) and format > FORMAT:
        raise UserError(
            f"{path} was written by a later vlp (format {format}; this one reads up to {FORMAT}): pip install --upgrade vlp"
        )
    return content


def read_folder(folder: Path, names: Sequence[str]) -> State:
    """The tensors of a folder's weights, which have one of these names, or are the shards of an index of that name. Warns of
    files that are passed over.  Raises UserError, also where a shard holds other keys than the index says."""
    chosen = choose_weights(folder, names)
    chosen.warn()
    indexed = set().union(*(keys for keys in chosen.files.values() if keys))
    state: State = {}
    for file, keys in chosen.files.items():
        part = read(file)
        for wrong, verb in (
            (set(keys or part) - part.keys(), "lacks"),
            (part.keys() - (indexed or part.keys()), "holds"),
        ):
            if wrong:
                shown = ", ".join(sorted(wrong)[:5])
                raise UserError(f"{file} {verb} {len(wrong)} tensors against its index ({shown}): download both again")
        state |= {key: part[key] for key in keys or part}
    return without_torch_wrappers(state, folder)


def _read(path: Path) -> Any:
    if path.is_dir():
        return sharded.read(path)
    if _is_pickle_of_arrays(path):
        return _to_tensors(restricted_pickle.load(path, restricted_pickle.ARRAYS))
    if (wrong := describe_damage(path)) is not None:
        raise UserError(f"{path} {wrong}")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if is_safetensors(start):
            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    return _read_torchscript(archive)
        allowed: list[Any] = [(_PlainData, name) for name in _PLAIN_DATA]
        with (
            torch.serialization.safe_globals([*allowed, (_plain_dict, "collections.defaultdict")]),
            path.open("rb") as file,
        ):
            return torch.load(file, map_location="cpu", weights_only=True)  # of a path, torch would believe the suffix
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path} holds more than tensors and plain values{f' (a {name[1]})' if name else ''}, which could run code when "
            "it is read: it is refused; save the state_dict alone, where the file comes from"
        ) from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is damaged and cannot be read ({reason}): download or copy it again") from error


def _is_pickle_of_arrays(path: Path) -> bool:
    """Whether it is a pickle that torch did not write: of protocol 2 or later, or by its name."""
    with path.open("rb") as file:
        start = file.read(len(_OLD_TORCH))
    if is_safetensors(start) or start.startswith((_OLD_TORCH, b"PK")):
        return False
    return path.suffix == ".pkl" or (start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"))


def _to_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))  # a copy
    return value


# classes of options and figures that other codes save beside weights
_PLAIN_DATA = (
    "argparse.Namespace", "types.SimpleNamespace", "typing.Any",
    *(f"{module}.{kind}" for module in ("pathlib", "pathlib._local")
      for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    "numpy.dtype", "numpy.ndarray", "_codecs.encode", "datetime.datetime", "datetime.timedelta",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str")),
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata", "omegaconf.nodes.AnyNode",
)  # fmt: skip


class _PlainData:
    """Stands for an object of such a class, none of whose code runs; what it held is not kept."""

    def __init__(self, *_: Any) -> None: ...

    def __new__(cls, *_: Any) -> _PlainData:
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None: ...


def _plain_dict(*_: Any) -> dict[Any, Any]:
    return {}  # what it holds is put in afterwards


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
