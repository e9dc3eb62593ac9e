"""Pickles as data: nothing that a file names is imported or called.

A pickle is a program that may name any function of Python. Here each name that is allowed has a meaning of our own, so that
even those of NumPy never reach its code, and any other is refused before a call. Sizes are checked before anything is made,
so no file takes more memory than a small multiple of its length. Protocols 0 to 5; strings of Python 2 become text (Latin-1).
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vlp.system.errors import UserError
from vlp.system.weight_files import describe_other_kind

# What pickles of dictionaries of arrays name, whatever version of Python and NumPy wrote them
ARRAYS = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    "numpy.ndarray", "numpy.dtype", "_codecs.encode", "builtins.bytes", "__builtin__.bytes", "collections.OrderedDict",
)  # fmt: skip
_AGAIN = "download or copy it again, or get it from where it was first published"
_TYPES = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,8}")  # bool, integers, floats, complex, bytes, text
_DAMAGED = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, OverflowError,
    RecursionError, MemoryError,
)  # fmt: skip
_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}


def load(path: Path, allowed: Iterable[str] = ()) -> Any:
    """The object in a pickle file: plain values, lists, tuples, dictionaries, sets, and what the `allowed` names stand for.

    allowed: full names, of those in ARRAYS; () allows no class at all.  Arrays are views of the file's bytes: copy what is to be
    changed. NumPy's scalars become Python's.  Raises UserError, in one sentence, for another name, a persistent id, and what is
    damaged or no pickle.
    """
    content = path.read_bytes()
    if (other := describe_other_kind(content[:512], len(content))) is not None:
        raise UserError(f"{path} {other}")
    try:
        check_stream(content)
        reader = _Reader(path, content, frozenset(allowed))
        value = reader.load()
        return _resolve(value, {}) if reader.names else value
    except UserError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read as a pickle ({reason}): {_AGAIN}") from error


def check_stream(content: bytes) -> None:
    """Raises UnpicklingError where an instruction is unknown, says more bytes than there are, or a number in the table of
    repeated objects that no file of this length can reach; where the file has no end or continues after it."""
    position, end = 0, len(content)
    while position < end:
        opcode = _OPCODES.get(content[position])
        if opcode is None:
            raise pickle.UnpicklingError(f"byte {position} is no instruction")
        name, start = opcode.name, position + 1
        position = _end_of_argument(content, opcode, start)
        if position > end:
            raise pickle.UnpicklingError(
                f"{name} at byte {start - 1} says {position - end:,} bytes more than there are"
            )
        if name == "STOP":
            if position < end:
                raise pickle.UnpicklingError(f"{end - position:,} bytes follow its end")
            return
        if name.startswith("EXT"):
            raise pickle.UnpicklingError("it names an extension of another program")
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            argument = content[start:position]
            number = int(argument) if name == "PUT" else int.from_bytes(argument, "little")
            if not 0 <= number <= end:
                raise pickle.UnpicklingError(f"{name} at byte {start - 1} numbers an object {number:,}")
        elif name == "FRAME" and int.from_bytes(content[start:position], "little") > end - position:
            raise pickle.UnpicklingError("it is cut off")
    raise pickle.UnpicklingError("it is cut off")


def _end_of_argument(content: bytes, opcode: pickletools.OpcodeInfo, start: int) -> int:
    length = opcode.arg.n if opcode.arg is not None else 0
    if length >= 0:
        return start + length
    if length == pickletools.UP_TO_NEWLINE:
        for _ in range(2 if opcode.name in ("GLOBAL", "INST") else 1):
            start = content.find(b"\n", start) + 1
            if not start:
                raise pickle.UnpicklingError("it is cut off")
        return start
    width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}.get(length, 4)
    signed = length == pickletools.TAKEN_FROM_ARGUMENT4
    size = int.from_bytes(content[start : start + width], "little", signed=signed)
    if size < 0:
        raise pickle.UnpicklingError(f"{opcode.name} at byte {start - 1} says {size} bytes")
    return start + width + size


class _Reader(pickle.Unpickler):
    """names: what the file may name."""

    def __init__(self, path: Path, content: bytes, names: frozenset[str]) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.path, self.names, self.allowance = path, names, len(content)
        meanings: dict[str, Callable[..., Any]] = {
            "_codecs.encode": self._encode, "collections.OrderedDict": self._ordered,
            "numpy.dtype": _Type, "numpy.ndarray": _no_call,
            "builtins.bytes": lambda: b"", "__builtin__.bytes": lambda: b"",
        }  # fmt: skip
        for core in ("core", "_core"):
            meanings[f"numpy.{core}.multiarray._reconstruct"] = lambda *_: _Array(self._bytes)
            meanings[f"numpy.{core}.multiarray.scalar"] = self._scalar
            meanings[f"numpy.{core}.numeric._frombuffer"] = self._from_buffer
        if unknown := names - meanings.keys():
            raise LookupError(f"restricted_pickle has no meaning for {sorted(unknown)}")
        self.meanings = {name: _Call(meanings[name]) for name in names}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self.meanings:
            raise UserError(
                f"{self.path} names {full}, which could run code when it is read: it is refused, and nothing of it was run; get "
                "the file from where it was first published"
            )
        return self.meanings[full]

    def persistent_load(self, identity: Any) -> Any:
        raise UserError(f"{self.path} refers to an object outside of itself (persistent id), which is refused")

    def _spend(self, count: int) -> None:
        self.allowance -= count  # or one text could be copied a million times
        if self.allowance < 0:
            raise pickle.UnpicklingError("it would take more memory than a file of its length can need")

    def _encode(self, text: Any, encoding: Any) -> Any:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"bytes in {encoding}")
        return self._bytes(text)

    def _bytes(self, content: Any) -> Any:
        """Bytes of what Python 2 wrote as a string; all else as it is."""
        if not isinstance(content, str):
            return content
        self._spend(len(content))
        return content.encode("latin-1")

    def _from_buffer(self, content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        array = _Array(self._bytes)
        array.__setstate__((1, shape, dtype, order == "F", content))
        return array

    def _scalar(self, dtype: Any, content: Any) -> Any:
        return _view(self._bytes(content), dtype, (), fortran=False).item()

    def _ordered(self, pairs: Any = ()) -> OrderedDict[Any, Any]:
        self._spend(len(pairs))
        return OrderedDict(pairs)


class _Call:
    """A function that a file may call, and whose attributes it cannot set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


def _no_call(*_: Any) -> Any:
    raise pickle.UnpicklingError("it makes an array in an unknown way")


class _Type:
    """Stands for numpy.dtype, of plain numbers and texts; its byte order comes afterwards."""

    __slots__ = ("numpy",)

    def __init__(self, name: Any, *_: Any) -> None:
        if not _TYPES.fullmatch(name):
            raise pickle.UnpicklingError(f"arrays of {name[:20]!r} are not read")
        self.numpy = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        _, order, subtype, names, fields, size, *_ = state
        if (subtype, names, fields) != (None, None, None) or order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a dtype of parts")
        if size not in (-1, self.numpy.itemsize):
            raise pickle.UnpicklingError(f"{self.numpy.name} of {size} bytes")
        self.numpy = self.numpy.newbyteorder(order)


class _Array:
    """Stands for an array whose shape, type and bytes come afterwards."""

    __slots__ = ("numpy", "to_bytes")

    def __init__(self, to_bytes: Callable[[Any], Any]) -> None:
        self.to_bytes = to_bytes

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.numpy = _view(self.to_bytes(content), dtype, shape, fortran=bool(fortran))


def _view(content: Any, dtype: Any, shape: Any, *, fortran: bool) -> Any:
    if not isinstance(content, (bytes, bytearray)) or not isinstance(dtype, _Type) or not isinstance(shape, tuple):
        raise pickle.UnpicklingError("an array in an unknown form")
    if any(not isinstance(side, int) or not 0 <= side < 2**31 for side in shape) or len(shape) > 32:
        raise pickle.UnpicklingError("an array of an impossible shape")
    if math.prod(shape) * dtype.numpy.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array {shape} of {dtype.numpy.name} with {len(content):,} bytes")
    return np.frombuffer(content, dtype.numpy, count=math.prod(shape)).reshape(shape, order="F" if fortran else "C")


def _resolve(value: Any, known: dict[int, Any]) -> Any:
    """Arrays for what stands for them, within containers; lists and dictionaries stay the same objects."""
    if isinstance(value, _Array):
        return value.numpy
    if isinstance(value, (_Type, _Call)):
        raise pickle.UnpicklingError("it holds a type in place of a value")
    if not isinstance(value, (list, dict, tuple, set, frozenset)):
        return value
    if id(value) not in known:
        known[id(value)] = value
        parts = [_resolve(item, known) for item in value]  # of a dictionary its keys
        same = all(part is item for part, item in zip(parts, value, strict=True))
        if isinstance(value, list):
            value[:] = parts
        elif isinstance(value, dict) and same:
            value.update({key: _resolve(item, known) for key, item in value.items()})
        elif isinstance(value, tuple):
            known[id(value)] = value if same else tuple(parts)
        elif not same:
            raise pickle.UnpicklingError("it has an array as a key")
    return known[id(value)]
