"""Catalogues: the files of a data set that can be downloaded, from sources/NAME.yaml beside this module or from a user's file.

title, folder (below data/), homepage, licence, by_hand (what must be downloaded by hand and where, or null)
parts: {PART: {about, optional (false = downloaded unless --only names others), files: [
    {url, bytes, sha256 or md5 (null = unknown),
     to: FILE                                    where the file is stored, below the root
     unpack: FOLDER, members: [PATTERN, ..],     for an archive; all members where there are no patterns
     provides: [FILE or FOLDER/, ..]}            what exists afterwards
]}}
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from vlp.data.annotation_files import path_below_root
from vlp.system.errors import UserError
from vlp.system.suggest import nearest_option
from vlp.system.units import readable_bytes

CATALOGUE_FOLDER = Path(__file__).parent / "sources"
ARCHIVE_SUFFIXES = ".zip", ".tar", ".tar.gz", ".tgz"
DOWNLOADS_FOLDER = "downloads"  # below the root: archives, the lock and the manifest of what is complete


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """path: where it is stored, relative to the root.  unpack: the folder for an archive's members, also relative."""

    url: str
    path: str
    bytes: int | None
    sha256: str | None
    md5: str | None
    unpack: str | None
    members: tuple[str, ...]
    provides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    about: str
    optional: bool
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    title: str
    folder: str
    homepage: str
    licence: str
    by_hand: str | None
    parts: tuple[Part, ...]

    def select_parts(self, only: Sequence[str]) -> list[Part]:
        """The parts of these names, `all` for every part; without names those that are not optional."""
        names = [part.name for part in self.parts]
        for name in only:
            if name != "all" and name not in names:
                hint = nearest_option(name, names) or f" there are {', '.join(names)} and all"
                raise UserError(f"--only {name}: there is no such part:{hint}")
        return [part for part in self.parts if part.name in only or "all" in only or not (only or part.optional)]


def list_catalogues() -> dict[str, Path]:
    """The YAML files of this package by data set."""
    return {file.stem: file for file in sorted(CATALOGUE_FOLDER.glob("*.yaml"))}


def load_catalogue(name: str) -> Catalogue:
    """A catalogue by its data set's name, or by its path."""
    path = list_catalogues().get(name)
    if path is None:
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            hint = nearest_option(name, list_catalogues()) or f" there are {', '.join(list_catalogues())}"
            raise UserError(f"{name}: no data set of this name can be downloaded:{hint}, or the path of a YAML file")
    return read_catalogue(path)


def read_catalogue(path: Path) -> Catalogue:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such catalogue")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    required = dict.fromkeys(("title", "folder", "homepage", "licence"), str) | {"parts": dict}
    entry = _check_keys(content, required, {"by_hand": str}, location=str(path))
    path_below_root(Path("data"), entry["folder"], location=f"{path}, folder", follow_symlinks=True)
    parts = tuple(_parse_part(str(name), part, location=f"{path}, {name}") for name, part in entry.pop("parts").items())
    urls: dict[str, str] = {}
    for file in (file for part in parts for file in part.files):
        if urls.setdefault(file.path, file.url) != file.url:
            raise UserError(f"{path}: two addresses would be stored as {file.path}; give one of them another `to`")
    return Catalogue(**entry, parts=parts)


def _parse_part(name: str, content: Any, *, location: str) -> Part:
    part = _check_keys(content, {"about": str, "files": list}, {"optional": bool}, location=location)
    files = tuple(_parse_file(file, location=f"{location}, file {n}") for n, file in enumerate(part["files"], 1))
    return Part(name=name, about=part["about"], optional=bool(part["optional"]), files=files)


def _parse_file(content: Any, *, location: str) -> RemoteFile:
    optional = {"bytes": int, "members": list, "provides": list}
    optional |= dict.fromkeys(("sha256", "md5", "to", "unpack"), str)
    entry = _check_keys(content, {"url": str}, optional, location=location)
    for key, digits in (("sha256", 64), ("md5", 32)):
        if entry[key] is not None and not re.fullmatch(f"[0-9a-f]{{{digits}}}", entry[key]):
            raise UserError(f"{location}: {key} must be {digits} hexadecimal digits, in lower case")
    address = urlsplit(entry["url"])
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UserError(f"{location}: {entry['url']!r} is not an http or https address")
    name = PurePosixPath(unquote(address.path)).name
    if entry["unpack"] is not None and not (entry["to"] or name).endswith(ARCHIVE_SUFFIXES):
        raise UserError(f"{location}: {name} cannot be unpacked; archives end in {', '.join(ARCHIVE_SUFFIXES)}")
    to = entry.pop("to") or (name if entry["unpack"] is None else f"{DOWNLOADS_FOLDER}/{name}")
    members, provides = (tuple(map(str, entry.pop(key) or ())) for key in ("members", "provides"))
    for path in (to, entry["unpack"] or ".", *provides):
        path_below_root(Path("root"), path, location=location, follow_symlinks=True)
    return RemoteFile(**entry, members=members, provides=provides, path=to)


def _check_keys(
    content: Any, required: Mapping[str, type], optional: Mapping[str, type], *, location: str
) -> dict[str, Any]:
    """The mapping with every key, of the type given here; None where an optional one is missing.  Raises UserError."""
    types = {**required, **optional}
    if not isinstance(content, dict):
        raise UserError(f"{location}: expected keys and values, {', '.join(types)}")
    for key in content:
        if key not in types:
            hint = nearest_option(str(key), types) or f" known: {', '.join(types)}"
            raise UserError(f"{location}: unknown key {key}:{hint}")
    for key, kind in types.items():
        value = content.get(key)
        if value is None and key in optional:
            continue
        if not isinstance(value, kind) or (isinstance(value, int) and kind is int and (value is True or value < 0)):
            raise UserError(f"{location}: {key} is missing or not of type {kind.__name__}")
    return {key: content.get(key) for key in types}


def use_mirror(file: RemoteFile, mirror: str | None) -> RemoteFile:
    """The same file from another server, which has the original's path below the mirror's."""
    if mirror is None:
        return file
    if urlsplit(mirror).scheme not in ("http", "https") or not urlsplit(mirror).hostname:
        raise UserError(f"--mirror {redact_url(mirror)}: expects an address such as https://mirror.example.org/data")
    address = urlsplit(file.url)
    query = f"?{address.query}" if address.query else ""
    return replace(file, url=mirror.rstrip("/") + address.path + query)


def redact_url(url: str) -> str:
    """The address without user name, password, query and fragment, which may be secrets, for messages and files."""
    address = urlsplit(url)
    host = address.netloc.rpartition("@")[2]
    return f"{address.scheme}://{host}{address.path}"


def total_size(sizes: Iterable[int | None]) -> str:
    """sizes: bytes of each file, None where unknown."""
    sizes = list(sizes)
    known, unknown = readable_bytes(sum(size or 0 for size in sizes)), sizes.count(None)
    return f"{known} and {unknown} file{'s' * (unknown > 1)} of unknown size" if unknown else known


def describe_catalogue(catalogue: Catalogue, parts: Sequence[Part]) -> str:
    lines = [f"{catalogue.title}: {catalogue.homepage}", f"licence: {catalogue.licence}"]
    if catalogue.by_hand:
        lines += textwrap.wrap(f"by hand: {catalogue.by_hand}", 110, subsequent_indent="  ", break_on_hyphens=False)
    for part in parts:
        size = total_size(file.bytes for file in part.files)
        lines += ["", f"{part.name}{' (only on demand)' if part.optional else ''}: {part.about}; {size}"]
        for file in part.files:
            size = "unknown size" if file.bytes is None else readable_bytes(file.bytes)
            check = "sha256" if file.sha256 else "md5" if file.md5 else "no checksum known"
            lines += [f"  {redact_url(file.url)}  {size}, {check}", f"    → {', '.join(file.provides or (file.path,))}"]
    size = total_size(file.bytes for part in parts if not part.optional for file in part.files)
    lines += ["", f"without --only: {size}; photos need about as much again when they are unpacked"]
    return "\n".join(lines) + "\n"
