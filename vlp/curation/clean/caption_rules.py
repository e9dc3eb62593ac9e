"""Rules on the form of captions, for any language: they use no word lists.

They are those of web data: length (Jia et al., ALIGN, 2021; Gadre et al., DataComp, 2023), addresses and file
names (Sharma et al., Conceptual Captions, 2018), shares of letters and repeated words (Rae et al., Gopher, 2021). Of the 40,000
captions that people wrote for Flickr8k the defaults of `CleanOptions` drop three, all with an address.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

# scripts without spaces between words (Thai to Burmese, Khmer, kana, Han): each character counts as a word
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


def split_words(caption: str) -> list[str]:
    """Case-folded words; characters in scripts without spaces."""
    return _WORD.findall(caption.casefold())


def letter_share(caption: str) -> float:
    """Of the characters that are not white space; letters with their marks, of any script."""
    return _category_share(caption, "LM")


def digit_share(caption: str) -> float:
    return _category_share(caption, "N")


def _category_share(caption: str, categories: str) -> float:
    characters = [c for c in caption if not c.isspace()]
    return sum(unicodedata.category(c)[0] in categories for c in characters) / max(1, len(characters))


def has_address(caption: str) -> bool:
    """A web or e-mail address."""
    return _ADDRESS.search(caption) is not None


def has_file_name(caption: str) -> bool:
    """IMG_1234, DSC00012, holiday.jpg."""
    return _FILE_NAME.search(caption) is not None


def is_all_capitals(caption: str) -> bool:
    """Nothing but capitals, in more than one word; scripts without case never are."""
    return len(split_words(caption)) > 1 and caption.isupper()


def repeated_share(caption: str) -> float:
    """The share of words that occurred before; 0 for fewer than four words."""
    words = split_words(caption)
    return 1 - len(set(words)) / len(words) if len(words) >= 4 else 0.0


def longest_run(caption: str) -> int:
    """How often a character, or a word, occurs in a row: 5 in "sooooo", 3 in "very very very"; spaces do not count."""
    return max(_longest_repeat([c for c in caption if not c.isspace()]), _longest_repeat(split_words(caption)))


def _longest_repeat(items: list[str]) -> int:
    return max((len(list(group)) for _, group in groupby(items)), default=0)
