"""What can be fetched of a data set, read from vlp/curation/download/sources/NAME.yaml or a file of the user's, and its listing.

title, folder (below data/), homepage, licence, by_hand (what must be fetched by hand and where, or null)
parts: {PART: {about, optional (false = fetched unless --only names others), files: [
    {url, bytes, sha256 or md5 (null = not known),
     to: FILE                                    for a file that is kept as it is, below the root
     unpack: FOLDER, members: [PATTERN, ..],     for an archive; all members where there are no patterns
     provides: [FILE or FOLDER/, ..]}            what is there afterwards
]}}
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from vlp.data.annotation_files import inside
from vlp.system.errors import UserError
from vlp.system.suggest import nearest_option
from vlp.system.units import readable_bytes

SOURCES = Path(__file__).parent / "sources"
ARCHIVES = ".zip", ".tar", ".tar.gz", ".tgz"
DOWNLOADS = "downloads"  # the folder below the root of archives, the lock and the record of what is complete


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """path: where it is kept, relative to the root.  unpack: the folder for an archive's members, also relative."""

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

    def choose(self, only: Sequence[str]) -> list[Part]:
        """The parts of these names; all that are not optional where there are none; `all` is every part."""
        names = [part.name for part in self.parts]
        for name in only:
            if name != "all" and name not in names:
                hint = nearest_option(name, names) or f" there are {', '.join(names)} and all"
                raise UserError(f"--only {name}: there is no such part:{hint}")
        return [part for part in self.parts if part.name in only or "all" in only or not (only or part.optional)]


def offered() -> dict[str, Path]:
    return {file.stem: file for file in sorted(SOURCES.glob("*.yaml"))}


def find(name: str) -> Catalogue:
    """A catalogue by its data set's name, or by its path."""
    path = offered().get(name)
    if path is None:
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            hint = nearest_option(name, offered()) or f" there are {', '.join(offered())}"
            raise UserError(f"{name}: no data set of this name can be fetched:{hint}, or the path of a YAML file")
    return read(path)


def read(path: Path) -> Catalogue:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such catalogue")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    keys = {"title": str, "folder": str, "homepage": str, "licence": str, "by_hand": (str, None), "parts": dict}
    entry = _checked(content, keys, place=str(path), optional=("by_hand",))
    inside(Path("data"), entry["folder"], place=f"{path}, folder", follow_symlinks=True)
    parts = tuple(_part(str(name), part, place=f"{path}, {name}") for name, part in entry.pop("parts").items())
    urls: dict[str, str] = {}
    for file in (file for part in parts for file in part.files):
        if urls.setdefault(file.path, file.url) != file.url:
            raise UserError(f"{path}: two addresses would be kept as {file.path}; give one of them another `to`")
    return Catalogue(**entry, parts=parts)


def _part(name: str, content: Any, *, place: str) -> Part:
    part = _checked(content, {"about": str, "optional": bool, "files": list}, place=place, optional=("optional",))
    files = tuple(_file(file, place=f"{place}, file {number}") for number, file in enumerate(part["files"], 1))
    return Part(name=name, about=part["about"], optional=bool(part["optional"]), files=files)


def _file(content: Any, *, place: str) -> RemoteFile:
    text, lists = (str, None), (list, None)
    keys = {"url": str, "bytes": (int, None), "sha256": text, "md5": text, "to": text, "unpack": text}
    keys |= {"members": lists, "provides": lists}
    entry = _checked(content, keys, place=place, optional=tuple(keys.keys() - {"url"}))
    for key, digits in (("sha256", 64), ("md5", 32)):
        if entry[key] is not None and not re.fullmatch(f"[0-9a-f]{{{digits}}}", entry[key]):
            raise UserError(f"{place}: {key} must be {digits} hexadecimal digits, in lower case")
    address = urlsplit(entry["url"])
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UserError(f"{place}: {entry['url']!r} is no http or https address")
    name = PurePosixPath(unquote(address.path)).name
    if entry["unpack"] is not None and not (entry["to"] or name).endswith(ARCHIVES):
        raise UserError(f"{place}: {name} cannot be unpacked; archives end in {', '.join(ARCHIVES)}")
    to = entry.pop("to") or (name if entry["unpack"] is None else f"{DOWNLOADS}/{name}")
    members, provides = (tuple(map(str, entry.pop(key) or ())) for key in ("members", "provides"))
    for path in (to, entry["unpack"] or ".", *provides):
        inside(Path("root"), path, place=place, follow_symlinks=True)
    return RemoteFile(**entry, members=members, provides=provides, path=to)


def _checked(content: Any, keys: dict[str, Any], *, place: str, optional: Iterable[str]) -> dict[str, Any]:
    """The mapping with every key of `keys`, of the types given there; None where an optional one is missing."""
    if not isinstance(content, dict):
        raise UserError(f"{place}: expected keys and values, {', '.join(keys)}")
    for key in content:
        if key not in keys:
            raise UserError(
                f"{place}: unknown key {key}:{nearest_option(str(key), keys) or ' known: ' + ', '.join(keys)}"
            )
    for key, kinds in keys.items():
        if key in optional and content.get(key) is None:
            continue
        kind = kinds[0] if isinstance(kinds, tuple) else kinds
        if not isinstance(content.get(key), kind) or (kind is int and (content[key] is True or content[key] < 0)):
            raise UserError(f"{place}: {key} is missing or no {kind.__name__}")
    return {key: content.get(key) for key in keys}


def mirrored(file: RemoteFile, mirror: str | None) -> RemoteFile:
    """The same file from another server, which has the original's path below the mirror's."""
    if mirror is None:
        return file
    if urlsplit(mirror).scheme not in ("http", "https") or not urlsplit(mirror).hostname:
        raise UserError(f"--mirror {public(mirror)}: expects an address such as https://mirror.example.org/data")
    address = urlsplit(file.url)
    query = f"?{address.query}" if address.query else ""
    return replace(file, url=mirror.rstrip("/") + address.path + query)


def public(url: str) -> str:
    """The address without user name, password, query and fragment, which may be secret, for messages and files."""
    address = urlsplit(url)
    host = address.netloc.rpartition("@")[2]
    return f"{address.scheme}://{host}{address.path}"


def total(parts: Sequence[Part]) -> str:
    files = [file for part in parts for file in part.files]
    known = readable_bytes(sum(file.bytes or 0 for file in files))
    unknown = sum(file.bytes is None for file in files)
    return f"{known} and {unknown} file{'s' * (unknown > 1)} of unknown size" if unknown else known


def describe(catalogue: Catalogue, parts: Sequence[Part]) -> str:
    lines = [f"{catalogue.title}: {catalogue.homepage}", f"licence: {catalogue.licence}"]
    if catalogue.by_hand:
        lines += textwrap.wrap(f"by hand: {catalogue.by_hand}", 110, subsequent_indent="  ", break_on_hyphens=False)
    for part in parts:
        lines += ["", f"{part.name}{' (only on demand)' if part.optional else ''}: {part.about}; {total([part])}"]
        for file in part.files:
            size = "unknown size" if file.bytes is None else readable_bytes(file.bytes)
            check = "sha256" if file.sha256 else "md5" if file.md5 else "no checksum known"
            lines += [f"  {public(file.url)}  {size}, {check}", f"    → {', '.join(file.provides or (file.path,))}"]
    chosen = [part for part in parts if not part.optional]
    lines += ["", f"without --only: {total(chosen)}; photos need about as much again when they are unpacked"]
    return "\n".join(lines) + "\n"
