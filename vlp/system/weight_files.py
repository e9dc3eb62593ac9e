"""Whether a file can be one of weights, judged by its size and its first bytes, before torch is imported.

safetensors: 8 bytes with the length of a JSON header, the header, the tensors; the header names where the last tensor ends.
torch.save: a zip archive with data.pkl, whose directory stands at the end, so a cut-off one has none; before torch 1.6 a pickle.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

_AGAIN = "download or copy it again"
_LFS = b"version https://git-lfs.github.com/spec/"
_PACKED = {
    b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7-Zip",
}  # fmt: skip
_FOREIGN = {b"\x89HDF": "an HDF5 file of Keras", b"GGUF": "a GGUF file", b"\x93NUMPY": "a NumPy array"}


def describe_damage(path: Path) -> str | None:
    """What is wrong with a file of weights and what to do, in words that follow its name; None where nothing is.

    A change within the tensors is not noticed.  Raises OSError.
    """
    size = path.stat().st_size
    if not size:
        return f"is empty: {_AGAIN}"
    with path.open("rb") as file:
        start = file.read(512)
    if is_safetensors(start):
        return _describe_safetensors(path, size)
    if (wrong := describe_other_kind(start, size)) is not None:
        return wrong
    if start.startswith(b"PK"):
        return _describe_archive(path, size)
    if start.startswith(b"\x80") and path.suffix != ".safetensors":
        return None  # a pickle, which only reading can tell to be complete
    if path.suffix == ".safetensors" and not _is_text(start):
        return f"is no safetensors file: its header is missing; {_AGAIN}"
    if _is_text(start):
        return f"is no checkpoint but a text file, which begins {_first_words(start)!r}: {_AGAIN}"
    return "is no checkpoint: neither torch nor safetensors wrote it"


def is_safetensors(start: bytes) -> bool:
    """start: at least 9 bytes. The length of the header, below 2³² bytes, may begin like any other kind of file."""
    return start[4:9] == b"\0\0\0\0{"


def describe_other_kind(start: bytes, size: int) -> str | None:
    """What a file is in place of data, in words that follow its name; None where that is not known.

    start: its first bytes, 262 or more of a tar archive.  size: in bytes.
    """
    if start.startswith(_LFS):
        return (
            f"is a Git LFS pointer, {size} bytes in place of the weights: run `git lfs pull` in its folder, or download "
            "the file itself"
        )
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"<" and _is_text(start):
        return (
            f"is a web page in place of the weights (it begins {_first_words(text)!r}): download the file itself, not the "
            "page about it"
        )
    for magic, name in _PACKED.items():
        if start.startswith(magic):
            return f"is packed with {name}: unpack it and give the file that was in it"
    if start[257:262] == b"ustar":
        return "is a tar archive: unpack it and give the file or folder that was in it"
    return next(
        (f"is {name}, which vlp does not read" for magic, name in _FOREIGN.items() if start.startswith(magic)), None
    )


def _describe_archive(path: Path, size: int) -> str | None:
    if not zipfile.is_zipfile(path):
        return f"is cut off after {size:,} bytes, without the directory at the end of a torch file: {_AGAIN}"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        return f"is damaged ({error}): {_AGAIN}"
    if not any(name.endswith("/data.pkl") for name in names):
        shown = ", ".join(names[:3])
        return f"is a zip archive of other files ({shown}): unpack it and give the file of weights"
    return None


def _describe_safetensors(path: Path, size: int) -> str | None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if 8 + length > size:
            return f"is cut off within its header: it has {size:,} of more than {8 + length:,} bytes; {_AGAIN}"
        try:
            header = json.loads(file.read(length))
            ends = [node["data_offsets"][1] for name, node in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            return f"is damaged: its header cannot be read ({error}); {_AGAIN}"
    if size < expected:
        return f"is cut off: it has {size:,} of {expected:,} bytes; {_AGAIN}"
    if size > expected:
        return f"is damaged: it has {size:,} bytes, and its header says {expected:,}; {_AGAIN}"
    return None


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8", errors="strict" if len(start) < 512 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text.removeprefix("\ufeff"))


def _first_words(start: bytes) -> str:
    return " ".join(start.decode("utf-8", errors="ignore").split())[:40]
