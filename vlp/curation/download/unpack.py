"""Unpacks an archive beside its place and then moves it there: what exists is kept, and a second run goes on."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from pathlib import Path, PurePosixPath

from vlp.curation.download.archive import Limits, Member, damage_explained, members, size_and_count
from vlp.curation.download.catalogue import DOWNLOADS, RemoteFile
from vlp.curation.download.download_manifest import missing
from vlp.curation.download.download_progress import Tally
from vlp.curation.download.transfer import Stopped
from vlp.system.atomic import nearest_folder
from vlp.system.errors import UserError
from vlp.system.units import readable_bytes

SPARE = 64 << 20  # bytes of a disk that stay free


def unpack(
    file: RemoteFile, root: Path, *, tally: Tally, stop: threading.Event, limits: Limits | None = None
) -> dict[str, int]:
    """How many members each folder got, by the folders' paths relative to the root.

    Raises UserError for an archive that is damaged or hostile; then nothing of it is in place.
    """
    archive, limits = root / file.path, limits or Limits()
    tally.stage, tally.done, tally.total = "unpacking", 0, None
    folder = root / (file.unpack or ".")
    aside = root / DOWNLOADS / f"{archive.name}.{_word(file)}.unpacking"

    def present(name: str) -> bool:
        return (folder / name).exists() or (aside / name).exists()

    if known := size_and_count(archive, file.members, limits, present=present):
        check_space(root, downloads=0, unpacked=known[0])
        tally.total = known[1]
    aside.mkdir(parents=True, exist_ok=True)
    folders: Counter[str] = Counter()
    different = 0
    try:
        with damage_explained(archive):
            for member in members(archive, file.members, limits):
                name = PurePosixPath(member.name)
                folders[str(PurePosixPath(file.unpack or ".") / name.parent)] += 1
                different += _one(member, aside / name, folder / name, stop)
                tally.done += 1
    except ValueError:
        shutil.rmtree(aside)
        raise
    _refuse_links(root, PurePosixPath(file.unpack or "."))
    merge(aside, folder, root=root)
    if different:
        tally.note = f"{different} files were there already with another size, and were kept"
    if gone := missing(file, root):
        raise UserError(f"{archive}: has no {', '.join(gone)}, which the catalogue expects in it")
    return dict(folders)


def _one(member: Member, temporary: Path, final: Path, stop: threading.Event) -> bool:
    """Writes one member, unless it is there; whether another file of its name is."""
    if os.path.lexists(final):
        return not final.is_file() or final.stat().st_size != member.size
    if temporary.is_file() and temporary.stat().st_size == member.size:
        return False
    temporary.parent.mkdir(parents=True, exist_ok=True)
    unfinished = temporary.with_name(f".{temporary.name}.part")
    with unfinished.open("wb", buffering=0) as out:
        while chunk := member.stream.read(1 << 20):
            try:
                out.write(chunk)
            except OSError as error:
                raise OSError(f"{temporary}: cannot be written ({error.strerror})") from error
            if stop.is_set():
                raise Stopped
        if out.tell() != member.size:
            raise EOFError(f"{member.name} has {out.tell()} of {member.size} bytes")
    os.replace(unfinished, temporary)
    return False


def merge(source: Path, destination: Path, *, root: Path) -> None:
    """Moves a tree into another, whole folders at once where they are new; files that exist are kept."""
    if not os.path.lexists(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, destination)
        return
    if source.is_dir() and destination.is_dir():
        _refuse_links(root, PurePosixPath(destination.relative_to(root)))
        for name in os.listdir(source):
            merge(source / name, destination / name, root=root)
        source.rmdir()
    elif source.is_dir():
        raise FileExistsError(f"{destination}: a file is where the archive has a folder; move it away")
    else:
        source.unlink()


def _refuse_links(root: Path, relative: PurePosixPath) -> None:
    place = Path(os.path.realpath(root / relative))
    if not place.is_relative_to(os.path.realpath(root)):
        raise UserError(
            f"{root / relative}: a symbolic link out of {root}, which is not written through; replace it by a folder, "
            "or give --root where it leads"
        )


def _word(file: RemoteFile) -> str:
    """Keeps apart what is unpacked from one archive to two places."""
    return (file.unpack or ".").replace("/", "_")


def check_space(root: Path, *, downloads: int, unpacked: int) -> None:
    """downloads, unpacked: bytes still to come; OSError with the numbers where they do not fit. It is called before the
    first byte arrives, because a full disk after ten hours of downloading has wasted them."""
    free, needed = shutil.disk_usage(nearest_folder(root)).free, downloads + unpacked
    if needed and needed + SPARE > free:
        parts = f"{readable_bytes(downloads)} to download, {readable_bytes(unpacked)} when unpacked"
        raise OSError(
            f"{root}: {readable_bytes(needed)} are needed ({parts}) and {readable_bytes(free)} are free; make room, "
            "choose parts with --only, or another disk with --root"
        )
