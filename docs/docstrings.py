"""How vlp documents arguments and fields, for the reference pages. Griffe, which reads the sources for mkdocstrings, loads this
file as an extension.

Arguments stand in docstrings as `width: of the states.  heads: of attention.`: each `name: text` that begins a line or follows
two spaces becomes an entry of a list. A field's comment, at the end of its line, becomes the field's docstring.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Attribute, Docstring, Extension, Object

NAMES = r"[a-z_0-9]+(?:, [a-z_0-9]+)*"


class Arguments(Extension):
    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)

    def on_attribute(self, *, attr: Attribute, **kwargs: Any) -> None:
        if attr.docstring is None and attr.parent is not None and attr.parent.is_class and attr.source:
            comment = re.search(r"\s{2}# (.*)$", attr.source.rstrip())
            if comment:
                attr.docstring = Docstring(comment[1], parent=attr)


def listed(text: str) -> str:
    """The docstring with its arguments as a Markdown list; code blocks (indented lines) stay as they are."""
    lines: list[str] = []
    inside = False
    for line in re.sub(rf"(?<=\S)  +(?=(?:{NAMES}): \S)", "\n", text).splitlines():
        entry = re.match(rf"({NAMES}): (\S.*)", line)
        if entry:
            if not inside and lines and lines[-1]:
                lines.append("")
            lines.append(f"* **{entry[1]}**: {entry[2]}".replace("_", r"\_", entry[1].count("_")))
        else:
            lines.append(f"  {line}" if inside and line else line)
        inside = bool(entry) or (inside and bool(line.strip()))
    return "\n".join(lines)
