"""Files that are no weights, or a part of them, are recognised by their first bytes and their size."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlp.checkpoints.tensor_files import read
from vlp.system.weight_files import describe_damage

STATE = {"a": torch.arange(300.0), "b": torch.ones(2, 3)}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 605247071\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>"


def written(folder: Path) -> dict[str, bytes]:
    """One state dict in each format."""
    save_file(STATE, folder / "a.safetensors")
    torch.save(STATE, folder / "a.pt")
    torch.save(STATE, folder / "old.pt", _use_new_zipfile_serialization=False)
    return {name: (folder / name).read_bytes() for name in ("a.safetensors", "a.pt", "old.pt")}


def test_complete_files_of_every_format_have_no_damage(tmp_path: Path) -> None:
    files = written(tmp_path)
    (tmp_path / "b.bin").write_bytes(files["a.safetensors"])
    (tmp_path / "b.safetensors").write_bytes(files["a.pt"])
    names = [*files, "b.bin", "b.safetensors"]
    assert {name: describe_damage(tmp_path / name) for name in names} == dict.fromkeys(names)


@pytest.mark.parametrize("start", [b"\x80\x02", b"PK", b"\x1f\x8b", b"BZ"])
def test_a_header_whose_length_begins_like_another_kind_of_file(tmp_path: Path, start: bytes) -> None:
    length = int.from_bytes(start, "little")
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    assert describe_damage(tmp_path / "a.safetensors") is None
    assert read(tmp_path / "a.safetensors").keys() == {"a"}


@pytest.mark.parametrize("kept", [12, 40, 200, -1])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_file_that_was_cut_off(tmp_path: Path, name: str, kept: int) -> None:
    content = written(tmp_path)[name]
    (tmp_path / name).write_bytes(content[:kept])
    message = describe_damage(tmp_path / name) or ""
    assert message.startswith("is cut off")
    assert message.endswith("download or copy it again")
    assert f"{len(content[:kept]):,}" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (LFS, "is a Git LFS pointer, 74 bytes in place of the weights: run `git lfs pull`"),
        (PAGE, "is a web page in place of the weights (it begins '<!DOCTYPE html>"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
        (b"Entry not found", "but a text file, which begins 'Entry not found'"),
        (b'{"error":"Repository not found"}', "but a text file"),
        (gzip.compress(b"x" * 99, mtime=0), "is packed with gzip: unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "is an HDF5 file of Keras"),
        (bytes(range(7, 200)), "neither torch nor safetensors wrote it"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not JSON at all", "is damaged: its header cannot be read"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_other_content_under_the_name_of_weights(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    (tmp_path / f"model{suffix}").write_bytes(content)
    damage = describe_damage(tmp_path / f"model{suffix}") or ""
    assert message in damage or (suffix == ".safetensors" and "is no safetensors file" in damage)


def test_archives_around_weights(tmp_path: Path) -> None:
    written(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.pt", "a.pt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.write(tmp_path / "a.pt", "a.pt")
    assert "is a tar archive: unpack it" in (describe_damage(tmp_path / "a.tar") or "")
    assert "is a zip archive of other files (a.pt)" in (describe_damage(tmp_path / "a.zip") or "")


def test_bytes_behind_the_last_tensor(tmp_path: Path) -> None:
    content = written(tmp_path)["a.safetensors"]
    (tmp_path / "a.safetensors").write_bytes(content + b"xx")
    assert "is damaged: it has" in (describe_damage(tmp_path / "a.safetensors") or "")
