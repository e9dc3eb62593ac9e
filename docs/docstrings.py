"""An extension of Griffe (which reads the sources for mkdocstrings) for the way in which vlp documents arguments and fields.

Docstrings describe arguments as `width: of the states.  heads: of attention.`: each `name: text` at the start of a line or after
two spaces becomes a list entry. A comment at the end of a field's line becomes the field's docstring.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Attribute, Docstring, Extension, Object

ARGUMENT_NAMES = r"[a-z_0-9]+(?:, [a-z_0-9]+)*"


class ArgumentsAndFields(Extension):
    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = with_argument_list(obj.docstring.value)

    def on_attribute(self, *, attr: Attribute, **kwargs: Any) -> None:
        if attr.docstring is None and attr.parent is not None and attr.parent.is_class and attr.source:
            comment = re.search(r"\s{2}# (.*)$", attr.source.rstrip())
            if comment:
                attr.docstring = Docstring(comment[1], parent=attr)


def with_argument_list(text: str) -> str:
    """The docstring with its arguments as a Markdown list; code blocks (indented lines) are not changed."""
    lines: list[str] = []
    in_entry = False
    for line in re.sub(rf"(?<=\S)  +(?=(?:{ARGUMENT_NAMES}): \S)", "\n", text).splitlines():
        entry = re.match(rf"({ARGUMENT_NAMES}): (\S.*)", line)
        if entry:
            if not in_entry and lines and lines[-1]:
                lines.append("")
            lines.append(f"* **{entry[1]}**: {entry[2]}".replace("_", r"\_", entry[1].count("_")))
        else:
            lines.append(f"  {line}" if in_entry and line else line)
        in_entry = bool(entry) or (in_entry and bool(line.strip()))
    return "\n".join(lines)
