"""How ALBEF, BLIP, SigLIP and open_clip clean texts before their tokenizers.

kind: "caption", "question" or "dialogue"; answers stay unchanged.  max_words: None = the original's in evaluation, which a
dialogue does not have: it would lose its question.
"""

from __future__ import annotations

import html
import re
import string
from collections.abc import Callable
from types import ModuleType

_ALBEF_MARKS = re.compile(r"""[,.'!?"()*#:;~]""")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
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
    return text if kind == "dialogue" else _first_words(text, max_words or (30 if kind == "caption" else 50))


def blip(text: str, kind: str = "caption", max_words: int | None = None) -> str:
    """salesforce/BLIP data/utils.py: in captions the marks become spaces, in questions they are deleted; at most 50 words."""
    if kind == "caption":
        text = re.sub(r"\s{2,}", " ", _BLIP_MARKS.sub(" ", text.lower())).rstrip("\n").strip(" ")
    else:
        text = _BLIP_MARKS.sub("", text.lower()).rstrip(" ")
    return text if kind == "dialogue" else _first_words(text, max_words or 50)


def _first_words(text: str, count: int) -> str:
    return " ".join(text.split(" ")[:count])


def siglip(text: str, kind: str = "caption") -> str:
    """google-research/big_vision evaluators/proj/image_text/prompt_engineering.py, canonicalize_text, as transformers has it."""
    return re.sub(r"\s+", " ", text.lower().translate(_NO_PUNCTUATION)).strip()


def open_clip_whitespace(text: str, kind: str = "caption") -> str:
    """mlfoundations/open_clip tokenizer.py; ftfy repairs wrongly decoded text.  Raises ModuleNotFoundError without it."""
    if not (text.isascii() and text.isprintable() and "&" not in text):  # else nothing to repair, and ftfy is slow
        text = html.unescape(html.unescape(import_ftfy().fix_text(text)))
    return " ".join(text.split())


def import_ftfy() -> ModuleType:
    try:
        import ftfy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("CLIP's tokenizer needs ftfy, which is not installed: pip install ftfy") from error
    return ftfy


def open_clip_lower(text: str, kind: str = "caption") -> str:
    """Also OpenAI's of CLIP (openai/CLIP clip/simple_tokenizer.py)."""
    return open_clip_whitespace(text).lower()


def open_clip_canonicalize(text: str, kind: str = "caption") -> str:
    """The same of SigLIP's with "_" for a space."""
    return " ".join(open_clip_whitespace(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


CLEANINGS: dict[str, Callable[[str, str], str]] = {
    "albef": albef,
    "blip": blip,
    "siglip": siglip,
    "open_clip_whitespace": open_clip_whitespace,
    "open_clip_lower": open_clip_lower,
    "open_clip_canonicalize": open_clip_canonicalize,
}
