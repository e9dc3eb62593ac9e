"""Archives land where they belong, a second time nothing happens, and hostile ones leave no trace."""

import gzip
import hashlib
import io
import os
import shutil
import stat
import struct
import tarfile
import threading
import zipfile
from collections import namedtuple

import pytest

from vlp.curation.download import archive as archive_module
from vlp.curation.download import unpack as unpack_module
from vlp.curation.download.catalogue import read_catalogue
from vlp.curation.download.download_progress import FileProgress
from vlp.curation.download.transfer import DownloadStopped
from vlp.curation.download.unpack import unpack_archive

PHOTOS = {f"photos/{n}.jpg": bytes([n]) * 50_000 for n in range(4)} | {"notes/a.json": b"{}", "top.txt": b"t"}


def archive(url, **changes):
    return {"url": url, "unpack": ".", **changes}


def tree(root):
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("downloads/")}


def tarred(*members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as out:
        for member in members:
            content = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def of_kind(name, kind, target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tgz"])
def test_members_land_in_their_folder(server, fetch, packed, suffix):
    content = packed(PHOTOS) if suffix == "zip" else tarred(*PHOTOS.items(), mode="w:gz" if "gz" in suffix else "w")
    root = fetch(archive(server.put(f"/a.{suffix}", content), unpack="deep/down"))
    assert tree(root) == {f"deep/down/{name}": value for name, value in PHOTOS.items()}
    assert sorted(path.name for path in (root / "downloads").iterdir()) == [f"a.{suffix}", "lock", "manifest.json"]


def test_patterns_choose_members_and_mac_litter_stays_out(server, fetch, packed):
    litter = {"__MACOSX/._top.txt": b"x", "photos/.DS_Store": b"x"}
    url = server.put("/a.zip", packed({**PHOTOS, **litter}))
    assert tree(fetch(archive(url))) == PHOTOS
    server.put("/b.zip", packed({**PHOTOS, **litter}))
    root = fetch(archive(server.address + "/b.zip", unpack="b", members=["photos/[01].jpg", "*.json"]))
    assert {name for name in tree(root) if name.startswith("b/")} == {
        "b/photos/0.jpg",
        "b/photos/1.jpg",
        "b/notes/a.json",
    }


def test_existing_files_are_kept_and_missing_ones_come_back(server, fetch, packed, capsys):
    file = archive(server.put("/a.zip", packed(PHOTOS)))
    root = fetch(file)
    (root / "photos" / "0.jpg").write_bytes(b"mine")
    (root / "photos" / "1.jpg").unlink()
    fetch(file)
    assert tree(root) == {**PHOTOS, "photos/0.jpg": b"mine"}
    assert "1 files existed already with another size" in capsys.readouterr().err
    assert len(server.asked("/a.zip")) == 1


def test_archives_are_deleted_on_demand_and_not_fetched_again(server, fetch, packed):
    file = archive(server.put("/a.zip", packed(PHOTOS)), provides=["photos/", "top.txt"])
    root = fetch(file, delete_archives=True)
    assert not (root / "downloads" / "a.zip").exists()
    fetch(file, delete_archives=True)
    assert len(server.asked("/a.zip")) == 1
    (root / "top.txt").unlink()
    fetch(file)
    assert len(server.asked("/a.zip")) == 2
    assert tree(root) == PHOTOS


def test_a_stopped_unpacking_goes_on(tmp_path, catalogue_file, packed, monkeypatch):
    file = read_catalogue(catalogue_file(archive("http://127.0.0.1/a.zip"))).parts[0].files[0]
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "a.zip").write_bytes(packed(PHOTOS))
    stop, written = threading.Event(), []
    original = unpack_module._write_member

    def interrupted(member, *arguments):
        written.append(member.name)
        if len(written) == 3:
            stop.set()
        return original(member, *arguments)

    monkeypatch.setattr(unpack_module, "_write_member", interrupted)
    with pytest.raises(DownloadStopped):
        unpack_archive(file, tmp_path, progress=FileProgress("a.zip"), stop=stop)
    assert not (tmp_path / "photos").exists()
    aside = tmp_path / "downloads" / "a.zip...unpacking" / "photos"
    before = (aside / "0.jpg").stat().st_ino
    counts = unpack_archive(file, tmp_path, progress=FileProgress("a.zip"), stop=threading.Event())
    assert counts == {"photos": 4, "notes": 1, ".": 1}
    assert (tmp_path / "photos" / "0.jpg").stat().st_ino == before
    assert (tmp_path / "photos" / "2.jpg").read_bytes() == PHOTOS["photos/2.jpg"]


def zip_link(name, target):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        out.writestr(info, target)
    return buffer.getvalue()


def longer_than_said(content):
    """A zip whose headers say three bytes of a longer member."""
    whole = bytearray(content)
    size = struct.unpack_from("<I", whole, 22)[0]
    directory = whole.index(b"PK\x01\x02")
    assert struct.unpack_from("<I", whole, directory + 24)[0] == size
    for place in (22, directory + 24):
        struct.pack_into("<I", whole, place, 3)
    return bytes(whole)


HOSTILE = {
    "up.zip": (lambda packed: packed({"a.txt": b"a", "../evil": b"x"}), "leads out"),
    "deep_up.zip": (lambda packed: packed({"a/b/../../../evil": b"x"}), "leads out"),
    "absolute.zip": (lambda packed: packed({"/tmp/evil": b"x"}), "leads out"),
    "drive.zip": (lambda packed: packed({"C:evil": b"x"}), "leads out"),
    "backslash.tar": (lambda packed: tarred(("..\\evil", b"x")), "not a file name"),
    "link.zip": (lambda packed: zip_link("photos", "/etc"), "a link or device"),
    "up.tar": (lambda packed: tarred(("a.txt", b"a"), ("../evil", b"x")), "leads out"),
    "absolute.tar": (lambda packed: tarred(("/tmp/evil", b"x")), "leads out"),
    "symlink.tar": (lambda packed: tarred(of_kind("a", tarfile.SYMTYPE), ("a/b", b"x")), "a link or device"),
    "hardlink.tar": (lambda packed: tarred(of_kind("a", tarfile.LNKTYPE)), "a link or device"),
    "device.tar": (lambda packed: tarred(of_kind("a", tarfile.CHRTYPE)), "a link or device"),
    "pipe.tar": (lambda packed: tarred(of_kind("a", tarfile.FIFOTYPE)), "a link or device"),
    "twice.tar": (lambda packed: tarred(("a", b"x"), ("a", b"y")), "appears twice"),
    "bomb.zip": (lambda packed: packed({"a": bytes(90 << 20)}, compression=zipfile.ZIP_DEFLATED), "fill the disk"),
    "bomb.tar.gz": (lambda packed: tarred(("a", bytes(90 << 20)), mode="w:gz"), "fill the disk"),
    "liar.zip": (lambda packed: longer_than_said(packed({"a": b"abcdefgh"})), "cannot be unpacked"),
    "cut.zip": (lambda packed: packed(PHOTOS)[:-50], "cannot be unpacked"),
    "cut.tar": (lambda packed: tarred(*PHOTOS.items())[:120_000], "cannot be unpacked"),
    "cut.tar.gz": (lambda packed: gzip.compress(tarred(*PHOTOS.items()))[:-300], "cannot be unpacked"),
    "text.zip": (lambda packed: b"not an archive", "cannot be unpacked"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_damaged_archives_leave_no_trace(server, fetch, packed, name, tmp_path):
    make, words = HOSTILE[name]
    with pytest.raises(ValueError, match=words) as caught:
        fetch(archive(server.put(f"/{name}", make(packed))))
    assert "\n" not in str(caught.value)
    assert tree(tmp_path / "root") == {}
    assert not (tmp_path / "evil").exists()
    assert not list((tmp_path / "root" / "downloads").glob("*.unpacking"))


def test_too_many_members_are_refused(tmp_path, catalogue_file, packed, monkeypatch):
    monkeypatch.setattr(archive_module, "MAX_MEMBERS", 3)
    file = read_catalogue(catalogue_file(archive("http://127.0.0.1/a.zip"))).parts[0].files[0]
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "a.zip").write_bytes(packed(PHOTOS))
    with pytest.raises(ValueError, match="more than 3 members"):
        unpack_archive(file, tmp_path, progress=FileProgress("a.zip"), stop=threading.Event())


def test_a_link_out_of_the_root_is_not_written_through(server, fetch, packed, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "root" / "photos")
    with pytest.raises(ValueError, match="symbolic link out of"):
        fetch(archive(server.put("/a.zip", packed(PHOTOS))))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_the_catalogue_expects_must_be_in_the_archive(server, fetch, packed):
    with pytest.raises(ValueError, match=r"does not contain other\.json, which the catalogue expects"):
        fetch(archive(server.put("/a.zip", packed(PHOTOS)), provides=["top.txt", "other.json"]))


@pytest.mark.parametrize("free", [1_000_000, 67_200_000])
def test_a_disk_without_room_is_refused_before_the_first_byte(server, fetch, packed, monkeypatch, free):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free, 0, free))
    content = packed(PHOTOS)
    file = archive(server.put("/a.zip", content), bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(
        OSError, match=r"401 kB are needed \(201 kB to download, 201 kB when unpacked\) and .* are free"
    ):
        fetch(file)
    assert server.asked("/a.zip") == []


def test_an_unpacking_without_room_is_refused_exactly(server, fetch, packed, monkeypatch):
    usage = namedtuple("usage", "total used free")
    content = packed({"a": bytes(1_000_000)}, compression=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 0, (64 << 20) + 500_000))
    with pytest.raises(OSError, match=r"\(0 bytes to download, 1\.0 MB when unpacked\)"):
        fetch(archive(server.put("/a.zip", content)))
