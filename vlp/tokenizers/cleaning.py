"""What the originals do to captions and questions before their tokenizers see them.

kind: "caption" or "question"; answers are left as they are.  max_words: None = the original's in evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_DELETED = re.compile(r"""[,.'!?"()*#:;~]""")
_SPACED = str.maketrans("-/", "  ")
_DELETED_BY_BLIP = re.compile(r"""[.!"()*#:;~]""")  # the comma, "?", "'", "-" and "/" stay


def albef(text: str, kind: str = "caption", max_words: int | None = None) -> str:
    """salesforce/ALBEF dataset/utils.py: only captions lose repeated spaces and know `<person>`; 30 or 50 words."""
    text = _DELETED.sub("", text.lower()).translate(_SPACED)
    if kind == "caption":
        text = re.sub(r"\s{2,}", " ", text.replace("<person>", "person")).rstrip("\n").strip(" ")
    else:
        text = text.rstrip(" ")
    return _first_words(text, max_words or (30 if kind == "caption" else 50))


def blip(text: str, kind: str = "caption", max_words: int | None = None) -> str:
    """salesforce/BLIP data/utils.py: in captions the marks become spaces, in questions they are deleted; 50 words."""
    if kind == "caption":
        text = re.sub(r"\s{2,}", " ", _DELETED_BY_BLIP.sub(" ", text.lower())).rstrip("\n").strip(" ")
    else:
        text = _DELETED_BY_BLIP.sub("", text.lower()).rstrip(" ")
    return _first_words(text, max_words or 50)


def _first_words(text: str, count: int) -> str:
    words = text.split(" ")
    return " ".join(words[:count]) if len(words) > count else text


CLEANINGS: dict[str, Callable[[str, str], str]] = {"albef": albef, "blip": blip}
