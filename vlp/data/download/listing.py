"""Sizes in words, and what `--list` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from vlp.data.download.catalogue import Catalogue, Part, public


def readable(count: int | float) -> str:
    """Bytes with decimal prefixes, as disks and `ls --si` count: 19336861798 → '19.3 GB'."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def total(parts: Sequence[Part]) -> str:
    files = [file for part in parts for file in part.files]
    known = readable(sum(file.bytes or 0 for file in files))
    unknown = sum(file.bytes is None for file in files)
    return f"{known} and {unknown} file{'s' * (unknown > 1)} of unknown size" if unknown else known


def describe(catalogue: Catalogue, parts: Sequence[Part]) -> str:
    lines = [f"{catalogue.title}: {catalogue.homepage}", f"licence: {catalogue.licence}"]
    if catalogue.by_hand:
        lines += textwrap.wrap(f"by hand: {catalogue.by_hand}", 110, subsequent_indent="  ", break_on_hyphens=False)
    for part in parts:
        lines += ["", f"{part.name}{' (only on demand)' if part.optional else ''}: {part.about}; {total([part])}"]
        for file in part.files:
            size = "unknown size" if file.bytes is None else readable(file.bytes)
            check = "sha256" if file.sha256 else "md5" if file.md5 else "no checksum known"
            lines += [f"  {public(file.url)}  {size}, {check}", f"    → {', '.join(file.provides or (file.path,))}"]
    chosen = [part for part in parts if not part.optional]
    lines += ["", f"without --only: {total(chosen)}; photos need about as much again when they are unpacked"]
    return "\n".join(lines) + "\n"
