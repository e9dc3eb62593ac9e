"""How ALBEF and BLIP clean captions and questions before their tokenizers.

kind: "caption" or "question"; answers stay unchanged.  max_words: None = the original's in evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_ALBEF_MARKS = re.compile(r"""[,.'!?"()*#:;~]""")
_TO_SPACES = str.maketrans("-/", "  ")
_BLIP_MARKS = re.compile(r"""[.!"()*#:;~]""")  # the comma, "?", "'", "-" and "/" stay


def albef(text: str, kind: str = "caption", max_words: int | None = None) -> str:
    """salesforce/ALBEF dataset/utils.py: repeated spaces and `<person>` are replaced in captions only; at most 30 words of a
    caption, 50 of a question."""
    text = _ALBEF_MARKS.sub("", text.lower()).translate(_TO_SPACES)
    if kind == "caption":
        text = re.sub(r"\s{2,}", " ", text.replace("<person>", "person")).rstrip("\n").strip(" ")
    else:
        text = text.rstrip(" ")
    return _first_words(text, max_words or (30 if kind == "caption" else 50))


def blip(text: str, kind: str = "caption", max_words: int | None = None) -> str:
    """salesforce/BLIP data/utils.py: in captions the marks become spaces, in questions they are deleted; at most 50 words."""
    if kind == "caption":
        text = re.sub(r"\s{2,}", " ", _BLIP_MARKS.sub(" ", text.lower())).rstrip("\n").strip(" ")
    else:
        text = _BLIP_MARKS.sub("", text.lower()).rstrip(" ")
    return _first_words(text, max_words or 50)


def _first_words(text: str, count: int) -> str:
    return " ".join(text.split(" ")[:count])


CLEANINGS: dict[str, Callable[[str, str], str]] = {"albef": albef, "blip": blip}
