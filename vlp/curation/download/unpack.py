"""Unpacks an archive into a temporary folder and then moves the files: existing ones are kept, and a second run continues."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from pathlib import Path, PurePosixPath

from vlp.curation.download.archive import ArchiveMember, damage_as_user_error, iterate_members, missing_bytes_and_count
from vlp.curation.download.catalogue import DOWNLOADS_FOLDER, RemoteFile
from vlp.curation.download.download_manifest import missing_paths
from vlp.curation.download.download_progress import FileProgress
from vlp.curation.download.transfer import DownloadStopped
from vlp.system.atomic import nearest_folder
from vlp.system.errors import UserError
from vlp.system.units import readable_bytes

RESERVED_BYTES = 64 << 20  # of a disk, that stay free


def unpack_archive(file: RemoteFile, root: Path, *, progress: FileProgress, stop: threading.Event) -> dict[str, int]:
    """The number of members in each folder, by the folder's path relative to the root.

    Raises UserError for an archive that is damaged or hostile; then no file of it is moved to the root. DownloadStopped.
    """
    archive = root / file.path
    progress.stage, progress.done, progress.total = "unpacking", 0, None
    target = PurePosixPath(file.unpack or ".")
    folder = root / target
    # one archive may be unpacked into two folders
    temporary = root / DOWNLOADS_FOLDER / f"{archive.name}.{str(file.unpack or '.').replace('/', '_')}.unpacking"

    def present(name: str) -> bool:
        return (folder / name).exists() or (temporary / name).exists()

    if (counts := missing_bytes_and_count(archive, file.members, present=present)) is not None:
        check_free_space(root, downloads=0, unpacked=counts[0])
        progress.total = counts[1]
    temporary.mkdir(parents=True, exist_ok=True)
    folders: Counter[str] = Counter()
    different = 0
    try:
        with damage_as_user_error(archive):
            for member in iterate_members(archive, file.members):
                name = PurePosixPath(member.name)
                folders[str(target / name.parent)] += 1
                different += _write_member(member, temporary / name, folder / name, stop)
                progress.done += 1
    except ValueError:
        shutil.rmtree(temporary)
        raise
    _check_inside_root(folder, root)
    merge_folders(temporary, folder, root=root)
    if different:
        progress.message = f"{different} files existed already with another size, and were kept"
    if missing := missing_paths(file, root):
        raise UserError(f"{archive}: does not contain {', '.join(missing)}, which the catalogue expects")
    return dict(folders)


def _write_member(member: ArchiveMember, temporary: Path, final: Path, stop: threading.Event) -> bool:
    """Writes it to `temporary` unless a file exists there or at `final`. Whether `final` is another file of that name."""
    if os.path.lexists(final):
        return not final.is_file() or final.stat().st_size != member.size
    if temporary.is_file() and temporary.stat().st_size == member.size:
        return False
    temporary.parent.mkdir(parents=True, exist_ok=True)
    unfinished = temporary.with_name(f".{temporary.name}.part")
    with unfinished.open("wb", buffering=0) as out:
        while chunk := member.read(1 << 20):
            try:
                out.write(chunk)
            except OSError as error:
                raise OSError(f"{temporary}: cannot be written ({error.strerror})") from error
            if stop.is_set():
                raise DownloadStopped
        if out.tell() != member.size:
            raise EOFError(f"{member.name} has {out.tell()} of {member.size} bytes")
    os.replace(unfinished, temporary)
    return False


def merge_folders(source: Path, destination: Path, *, root: Path) -> None:
    """Moves the content of a folder into another, new subfolders with one rename each; existing files are kept."""
    if not os.path.lexists(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, destination)
    elif source.is_dir() and destination.is_dir():
        _check_inside_root(destination, root)
        for name in os.listdir(source):
            merge_folders(source / name, destination / name, root=root)
        source.rmdir()
    elif source.is_dir():
        raise FileExistsError(f"{destination}: a file is where the archive has a folder; move it away")
    else:
        source.unlink()


def _check_inside_root(path: Path, root: Path) -> None:
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise UserError(
            f"{path}: a symbolic link out of {root}, through which nothing is written; replace it by a folder, "
            "or give --root the folder it points to"
        )


def check_free_space(root: Path, *, downloads: int, unpacked: int) -> None:
    """Raises OSError where the bytes to download and to unpack do not fit; called before the first byte is downloaded."""
    free, needed = shutil.disk_usage(nearest_folder(root)).free, downloads + unpacked
    if needed and needed + RESERVED_BYTES > free:
        parts = f"{readable_bytes(downloads)} to download, {readable_bytes(unpacked)} when unpacked"
        raise OSError(
            f"{root}: {readable_bytes(needed)} are needed ({parts}) and {readable_bytes(free)} are free; free some space, "
            "choose parts with --only, or another disk with --root"
        )
