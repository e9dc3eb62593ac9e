"""Names of classes: those that look equal are one class, and those that a text tower can hardly distinguish are reported."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from vlp.data.issues import Faults, join_first_five


def clean_label(label: object) -> str:
    """With white space reduced, and letters and their accents composed (NFC), which macOS separates in names of files."""
    return unicodedata.normalize("NFC", " ".join(str(label).split()))


def report_equal_names(names: Iterable[str], *, location: object, faults: Faults) -> None:
    """Warns of classes whose names are equal but for upper case."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[name.casefold()].append(name)
    equal = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if equal:
        message = f"{location}: {len(equal)} names stand for several classes, which a text cannot distinguish"
        faults.warn(
            "classes of one name", f"{message}: {join_first_five(equal)}; rename them, or join them", count=len(equal)
        )
