from __future__ import annotations

import random
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.tars import jpeg, write
from vlp.data.issues import DataError
from vlp.data.shards.index import PARTS, read_index


def test_files_of_one_name_are_one_sample(tmp_path: Path) -> None:
    photo = jpeg()
    members = [
        ("a/1.jpg", photo),
        ("a/1.depth.png", photo),
        ("a/1.txt", b"one"),
        ("a/2.jpg", photo),
        ("a/2.json", b"{}"),
        ("a/2.seg.npy", b"?"),
    ]
    path = write(tmp_path / "a.tar", members)
    index = read_index(path)
    assert index.images == ["a/1.jpg", "a/2.jpg"]
    assert not index.faults
    data = path.read_bytes()
    parts = [dict(zip(PARTS, row, strict=True)) for row in index.files.tolist()]
    for part, content in ((parts[0]["image"], photo), (parts[0]["txt"], b"one"), (parts[1]["json"], b"{}")):
        assert data[part[0] : part[0] + part[1]] == content
    assert parts[1]["txt"][1] == -1


def test_faults_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    photo = jpeg()
    members = [
        ("1.jpg", photo), ("1.txt", b"one"),
        ("2.jpg", photo),  # no text
        ("3.txt", b"three"),  # no image
        ("1.jpg", photo), ("1.txt", b"again"),  # a key for the second time
        ("../4.jpg", photo), ("/5.jpg", photo), ("a/../../6.jpg", photo),
        ("7.jpg", photo), ("7.jpg", photo), ("7.txt", b"twice the same part"),
    ]  # fmt: skip
    special = []
    for name, kind in (("8.jpg", tarfile.SYMTYPE), ("9.jpg", tarfile.LNKTYPE), ("10.jpg", tarfile.CHRTYPE)):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        special.append(member)
    index = read_index(write(tmp_path / "a.tar", members, special))
    assert "1.jpg" in index.images
    assert index.faults["refused member"] == 6
    assert index.faults["sample without image"] == 1
    assert index.faults["sample without text"] == 1
    assert index.faults["duplicate key"] == 3
    assert not any(".." in name or name.startswith("/") for name in index.images)
    assert all("a.tar" in example for examples in index.examples.values() for example in examples)


@pytest.mark.parametrize("cut", [1, 600, 1100, 3000])
def test_a_shard_that_is_cut_off_gives_the_samples_before_that(tmp_path: Path, cut: int) -> None:
    photo = jpeg()
    members = [(f"{n}.{kind}", data) for n in range(9) for kind, data in (("jpg", photo), ("txt", b"text"))]
    whole = write(tmp_path / "a.tar", members)
    used = max(int(offset) + int(size) for row in read_index(whole).files for offset, size in row)
    data = whole.read_bytes()[: used - cut]
    (tmp_path / "cut.tar").write_bytes(data)
    index = read_index(tmp_path / "cut.tar")
    assert 5 <= len(index) < 9
    assert index.faults["shard cut off"] == 1
    assert all(offset + size <= len(data) for row in index.files for offset, size in row if size >= 0)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "0 bytes"), (b"no tar at all" * 100, "not a tar"), (b"x", "not a tar")]
)
def test_what_is_no_tar_is_an_error(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_index(tmp_path / "a.tar")


def test_a_damaged_header_or_a_joined_tar_is_told(tmp_path: Path) -> None:
    """tarfile takes both for the end."""
    photo = jpeg()
    members = [(f"{n}.{kind}", data) for n in range(9) for kind, data in (("jpg", photo), ("txt", b"text"))]
    data = write(tmp_path / "a.tar", members).read_bytes()
    offset = int(read_index(tmp_path / "a.tar").files[4, 0, 0]) - 512
    (tmp_path / "flipped.tar").write_bytes(data[:offset] + bytes([data[offset] ^ 4]) + data[offset + 1 :])
    (tmp_path / "joined.tar").write_bytes(data + data)
    for name, count in (("flipped.tar", 4), ("joined.tar", 9)):
        index = read_index(tmp_path / name)
        assert len(index) == count
        assert index.faults["shard cut off"] == 1


def test_headers_of_noise_end_in_samples_or_a_sentence(tmp_path: Path) -> None:
    photo = jpeg()
    members = [(f"{n}.{kind}", data) for n in range(3) for kind, data in (("jpg", photo), ("txt", b"text"))]
    data = bytearray(write(tmp_path / "a.tar", members).read_bytes())
    draws = random.Random(0)
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(draws.randint(1, 6)):
            changed[draws.choice((0, 1024, 2048)) + draws.randrange(512)] = draws.randrange(256)
        (tmp_path / "b.tar").write_bytes(changed)
        with suppress(DataError):
            assert len(read_index(tmp_path / "b.tar")) <= 3


def test_an_image_that_becomes_no_sample_is_a_fault(tmp_path: Path) -> None:
    """The name of a sample ends with the first dot, so these three would be one sample without an image."""
    photo = jpeg()
    plain = [(f"{name}.{kind}", data) for name in "abc" for kind, data in (("jpg", photo), ("txt", b"text"))]
    dotted = [(f"photo.{n}.{kind}", data) for n in range(3) for kind, data in (("jpg", photo), ("txt", b"text"))]
    index = read_index(write(tmp_path / "a.tar", plain + dotted))
    assert len(index) == 3
    assert index.faults == {"image of no sample": 3}
    assert index.examples["image of no sample"][0].startswith(f"{tmp_path}/a.tar: photo.0.jpg, whose sample is photo")


@pytest.mark.parametrize(
    ("members", "faults"),
    [
        (["1.jpg", "1.txt", "1.depth.png", "1.seg.avif"], {}),  # further parts of a sample
        (["1.jpg", "1.txt", "1.a.jpg", "1.a.txt"], {"image of no sample": 1}),  # one of its own
        (["1.jpg", "1.txt", "2.0.JPG"], {"image of no sample": 1}),
        (["2.0.txt", "1.jpg", "1.txt"], {}),  # no image is lost
        (["1.heic", "1.txt"], {"sample without image": 1}),
        (["1.jpg", "1.caption"], {"sample without text": 1}),
        (["1.jpg", "1.txt", "._1.jpg", "._1.txt", ".cache/2.jpg", "__MACOSX/1.jpg", "./3.jpg", "./3.txt"], {}),
        (["1.avif", "1.txt", "2.jp2", "2.json", "3.jfif", "3.cls"], {}),
    ],
)
def test_which_members_are_lost(tmp_path: Path, members: list[str], faults: dict[str, int]) -> None:
    photo = jpeg()
    index = read_index(write(tmp_path / "a.tar", [(name, photo) for name in members]))
    assert index.faults == faults
    kept = {name.partition(".")[0] for name in index.images}
    assert not any(name.startswith((".c", "._", "__")) for name in index.images)
    assert len(kept) == len(index)


def test_a_compressed_tar_is_named_as_such(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        archive.add(__file__, "a.txt")
    with pytest.raises(DataError, match=r"a\.tar: compressed with gzip"):
        read_index(tmp_path / "a.tar")
