"""Why a caption, by its form alone, is not worth training on. No word lists: the rules hold for any language.

They are the usual ones of web data: length (Jia et al., ALIGN, 2021; Gadre et al., DataComp, 2023), addresses and file
names (Sharma et al., Conceptual Captions, 2018), shares of letters and repeated words (Rae et al., Gopher, 2021). Of the 40,000
captions that people wrote for Flickr8k the defaults of `CleanOptions` drop three, all with an address.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

# scripts that put no spaces between words: Thai to Burmese, Khmer, kana, Han; there each character counts as a word
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w|(?<=\w)['’\-](?=\w))+")
_ADDRESS = re.compile(
    r"https?:|www\.\w|[\w.+-]+@\w[\w-]*\.\w|\b[\w-]+\.(?:com|org|net|info|biz|edu|gov|io|co\.[a-z]{2})\b", re.IGNORECASE
)
_FILE_NAME = re.compile(
    r"\b\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|svg|raw|cr2|nef|psd|mp4|mov)\b"
    r"|\b(?:IMG|DSC[FN]?|PXL|DCIM|MVI|VID|GOPR|P|SAM|CIMG|WP|Screenshot)[_-]?\d{4,}",
    re.IGNORECASE,
)


def words(caption: str) -> list[str]:
    """Case-folded; of scripts without spaces, the characters."""
    return _WORD.findall(caption.casefold())


def letter_share(caption: str) -> float:
    """Of the characters that are not white space; letters with their marks, of any script."""
    return _share(caption, "LM")


def digit_share(caption: str) -> float:
    return _share(caption, "N")


def _share(caption: str, categories: str) -> float:
    characters = [c for c in caption if not c.isspace()]
    return sum(unicodedata.category(c)[0] in categories for c in characters) / max(1, len(characters))


def has_address(caption: str) -> bool:
    """A web or e-mail address."""
    return _ADDRESS.search(caption) is not None


def has_file_name(caption: str) -> bool:
    """IMG_1234, DSC00012, holiday.jpg."""
    return _FILE_NAME.search(caption) is not None


def is_shouting(caption: str) -> bool:
    """Nothing but capitals, in more than one word; scripts without case never are."""
    return len(words(caption)) > 1 and caption.isupper()


def repeated_share(caption: str) -> float:
    """Of the words, those that stand there again; 0 for fewer than four words."""
    found = words(caption)
    return 1 - len(set(found)) / len(found) if len(found) >= 4 else 0.0


def longest_run(caption: str) -> int:
    """How often a character, or a word, stands there in a row: 5 in "sooooo", 3 in "very very very"; spaces do not count."""
    return max(_run([c for c in caption if not c.isspace()]), _run(words(caption)))


def _run(items: list[str]) -> int:
    return max((len(list(same)) for _, same in groupby(items)), default=0)
