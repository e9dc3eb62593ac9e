"""Pickles are read as data: none of what they name is run, and none takes more memory than its length explains."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlp.system.errors import UserError
from vlp.system.restricted_pickle import ARRAYS, load

VALUE = {"one": [1, 2.5, None, True], "two": ("text", b"bytes", {3, 4}), "three": {"deep": [{}]}, "ä": 2**70}
# refs(unc).p as Python 2 writes it, protocol 2, with strings that are no unicode; and protocol 0
PYTHON_2 = (
    b"\x80\x02]q\x01}q\x02(U\x08sent_idsq\x03]q\x04(K\x00K\x01eU\x05splitq\x05U\x05testAq\x06U\tsentencesq\x07]q\x08}q\t(U\x06tokensq\n"
    b"]q\x0b(U\x03redq\x0cX\x05\x00\x00\x00caf\xc3\xa9q\reU\x03rawq\x0eU\x04caf\xe9q\x0fuaU\x06ref_idq\x10K\x07ua."
)  # fmt: skip


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file.p"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    names = ["_codecs.encode"] if protocol < 3 else []  # these have no bytes, and 4 is the first that has sets
    value: dict[str, Any] = VALUE
    if protocol < 4:
        value = VALUE | {"two": ("text", b"bytes", b"")[: 3 if protocol > 2 else 2]}
    assert load(written(tmp_path, pickle.dumps(value, protocol)), names) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", ["core", "_core"])
def test_arrays_of_every_protocol_and_version_of_numpy(tmp_path: Path, protocol: int, core: str) -> None:
    arrays = [
        np.arange(12, dtype="f4").reshape(3, 4), np.arange(6, dtype=">i8").reshape(2, 3), np.ones((2, 3, 4), "f8", order="F"),
        np.zeros((0, 4), "u1"), np.array(7, "i2"), np.array([True, False]), np.array(["a", "bcd"]), np.array([1 + 2j]),
        np.frombuffer(b"\1\2\3\4", "u1"), np.arange(10, dtype="f2")[::3],
    ]  # fmt: skip
    content = {
        "model": OrderedDict((str(i), array) for i, array in enumerate(arrays)),
        "again": arrays[0],
        "number": np.float32(2.5),
    }
    data = pickle.dumps(content, protocol)
    old = data.replace(b"numpy._core.", b"numpy.core.")
    if protocol >= 4:  # lengths of strings and of frames stand before them
        old = _unframed(data).replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
        old = old.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
    data = old if core == "core" else data
    assert f"numpy.{core}.".encode() in data
    read = load(written(tmp_path, data), ARRAYS)
    assert isinstance(read["number"], float)
    assert read["number"] == 2.5
    assert read["again"] is read["model"]["0"] or protocol == 5  # which writes the bytes twice
    for array, copy in zip(arrays, read["model"].values(), strict=True):
        assert (type(copy), copy.dtype, copy.shape) == (np.ndarray, array.dtype, array.shape)
        np.testing.assert_array_equal(copy, array)


def _unframed(data: bytes) -> bytes:
    output = io.BytesIO()
    output.write(data[:2])
    position = 2
    while position < len(data):
        assert data[position] == 0x95
        (length,) = struct.unpack("<Q", data[position + 1 : position + 9])
        output.write(data[position + 9 : position + 9 + length])
        position += 9 + length
    return output.getvalue()


def test_strings_of_python_2_are_text(tmp_path: Path) -> None:
    (ref,) = load(written(tmp_path, PYTHON_2))
    assert (ref["split"], ref["ref_id"], ref["sent_ids"]) == ("testA", 7, [0, 1])
    assert ref["sentences"] == [{"tokens": ["red", "café"], "raw": "café"}]
    text = b"(lp0\n(dp1\nS'split'\np2\nS'train'\np3\nsS'sent'\np4\nVman\\u00e9\np5\nsa."
    assert load(written(tmp_path, text)) == [{"split": "train", "sent": "mané"}]


def test_arrays_of_python_2(tmp_path: Path) -> None:
    data = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\n"
        b"U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tbs."
    )
    np.testing.assert_array_equal(load(written(tmp_path, data), ARRAYS)["a"], np.array([1, 2], "f4"))


class _Command:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("allowed", [(), ARRAYS])
def test_a_pickle_that_runs_a_command_is_refused_by_name(
    tmp_path: Path, protocol: int, allowed: tuple[str, ...]
) -> None:
    path = written(tmp_path, pickle.dumps({"model": _Command(tmp_path / "run")}, protocol))
    with pytest.raises(UserError, match=rf"file\.p names {os.system.__module__}\.system, which could run code"):
        load(path, allowed)
    pickle.loads(path.read_bytes())  # and it would have run
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cos\nsystem\n(S'touch %s'\ntR.", "os.system"),
        (b"(S'touch %s'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'touch %s'\no.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93U\x00\x85R.", "os.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", "numpy.ndarray.__init__"),
        (b"cvlp.system.restricted_pickle\nload\n.", "vlp.system.restricted_pickle.load"),
    ],
)
def test_every_way_to_name_a_function_is_refused(tmp_path: Path, content: bytes, name: str) -> None:
    target = tmp_path / "run"
    for allowed in ((), ARRAYS):
        with pytest.raises(UserError, match=f"names {name}, which could run code"):
            load(written(tmp_path, content.replace(b"%s", bytes(target))), allowed)
    assert not target.exists()


def test_no_class_is_allowed_unless_named(tmp_path: Path) -> None:
    for value in (OrderedDict(a=1), np.arange(3)):
        with pytest.raises(
            UserError, match=r"names (collections\.OrderedDict|numpy\._core\.\w+\.\w+), which could run"
        ):
            load(written(tmp_path, pickle.dumps(value, 4)))
    assert load(written(tmp_path, pickle.dumps(OrderedDict(a=1), 2)), ["collections.OrderedDict"]) == {"a": 1}
    with pytest.raises(LookupError, match=r"no meaning for \['os\.system'\]"):
        load(written(tmp_path, pickle.dumps(1)), ["os.system"])


def test_persistent_ids_are_refused(tmp_path: Path) -> None:
    for content in (b"Pstorage\n.", b"U\x07storageQ."):
        with pytest.raises(UserError, match=r"outside of itself \(persistent id\)"):
            load(written(tmp_path, content))


def _array(shape: str, dtype: str, content: str) -> bytes:
    """In protocol 0."""
    made = "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
    return f"{made}({shape}\ntcnumpy\ndtype\n(S'{dtype}'\ntRI00\n{content}tb".encode()


BOMBS = {
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "string": b"\x80\x02T" + struct.pack("<i", -1) + b"x.",
    "integer": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "memo": b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b".",
    "memo as text": b"Np99999999999\n.",
    "extension": b"\x80\x02\x82\x01.",
    "no instruction": b"\x80\x02\xff.",
    "nothing on the stack": b"\x80\x02R.",
    "no end": b"\x80\x02N",
    "more after the end": b"\x80\x02N.N.",
    "empty": b"",
    "text file": b"ref_id,split\n1,val\n",
    "array": _array("L1000000000000L", "f8", "S'x'\n") + b".",
    "array of nothing": _array("I1000000000", "S0", "S''\n") + b".",
    "array of objects": _array("I1000000000", "O8", "(l") + b".",
    "array called": b"cnumpy\nndarray\n(I1000000000\ntR.",
    "a type as a value": b"(lcnumpy\nndarray\na.",
    "an attribute of a function": b"c_codecs\nencode\n(dS'x'\nI1\nsb.",
    "an array as a key": b"(d" + _array("I1", "i1", "S'x'\n") + b"I1\ns.",
    "one text a thousand times": b"\x80\x02X" + struct.pack("<I", 10**6) + b"x" * 10**6 + b"q\x00("
    + 1000 * b"c_codecs\nencode\nh\x00X\x06\0\0\0latin1\x86R" + b"l.",
    "depth": b"(" + 5000 * b"(" + 5000 * b"t" + b"t.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_damage_and_bombs_are_one_sentence_and_take_no_memory(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"^\S+file\.p .*$") as error:
            load(path, ARRAYS)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(BOMBS[name]) + 4_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_every_cut_of_a_file_is_one_sentence(tmp_path: Path) -> None:
    for protocol in (0, 2, 4):
        data = pickle.dumps({"model": np.arange(3, dtype="f4"), "name": "text"}, protocol)
        for length in range(1, len(data)):
            with pytest.raises(UserError):
                load(written(tmp_path, data[:length]), ARRAYS)


def test_a_page_or_a_pointer_in_place_of_the_file(tmp_path: Path) -> None:
    for content, reason in ((b"<html>sign in</html>", "web page"), (b"\x1f\x8b123", "packed with gzip")):
        with pytest.raises(UserError, match=reason):
            load(written(tmp_path, content))


def test_shared_and_circular_containers(tmp_path: Path) -> None:
    array = np.arange(3)
    inner: list[Any] = [array, (array, "x")]
    inner.append(inner)
    read = load(written(tmp_path, pickle.dumps({"a": inner, "b": inner})), ARRAYS)
    assert read["a"] is read["b"]
    assert read["a"][2] is read["a"]
    assert read["a"][1][0] is read["a"][0]
    np.testing.assert_array_equal(read["a"][0], array)
