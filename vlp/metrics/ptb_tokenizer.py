"""Captions as COCO's evaluation splits them: Penn Treebank words in lower case, without punctuation.

They are the words that Stanford's PTBTokenizer 3.4.1 prints with -lowerCase, as tylin/coco-caption calls it (Chen et al.,
"Microsoft COCO Captions", arXiv 1504.00325; pycocoevalcap/tokenizer/ptbtokenizer.py). That one is a Java program; this is
a description of what it does to captions, checked against its output on those of COCO, Flickr8k and Pascal. Not
described: web addresses, file names, telephone numbers, mark-up with attributes, letters outside Unicode's first
plane.

Two differences are meant: a line break inside a caption is a space (there it shifts all captions after it), and a
caption's words do not depend on the next caption of the file. There "vitamin c." keeps its full stop unless the next
caption begins with "A", "The" or the like, as most do; here it always loses it.
"""

from __future__ import annotations

import re
import unicodedata

# what coco-caption removes; brackets stay, because it looks for -LRB- where the words are in lower case already
PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})

# words that a full stop belongs to: initials, titles, dates, firms, streets, states; the last line's if capitalised
_ABBREVIATION = re.compile(
    r"[a-z](?:\.[a-z])+|(?:ed|ph)\.d|adj|adm|adv|al|ala|alex|apr|ariz|assn|assoc|asst|attys?|aug|ave|bancorp|bhd|bldg|blvd"
    r"|brig|bros|calif|capt|cf|cie|cmdr|col?|colo|comdr|conn|corp|cos|cpl|ct|dak|dec|dept|det|drs?|elec|ens|esq|est|etc|ext"
    r"|feb|fla|fri|ft|ga|gen|govs?|hon|inc|ind|insp|intl|invt|jan|jos|jr|jul|jun|kans?|ky|lieut|lt|ltd|maj|mar|md|messrs"
    r"|mfg|mich|minn|mlle|mme|mo|mon|mont|mrs?|ms|msgr|mt|mtg|natl|neb|nev|nov|oct|okla|penn|pfc|ph|plc|pres|profs?|ptes?"
    r"|ptys?|pvt|rd|reps?|rev|rt|sens?|sept?|seq|sfc|sgt|spc|sq|sr|ste?|supts?|sys|tel|tenn|thu|thurs|treas|tues?|univ|va"
    r"|vs|vt|wed|wisc?|wm|wyo"
    r"|(?=(?-i:[A-Z]))(?:ark|az|del|ill|la|mass|miss|ore|pa|tex|wash)",
    re.IGNORECASE,
)
_BEFORE_NUMBER = re.compile(r"(?:art|bldg|ca|figs?|nos?|op|pp|prop)\.\s?\d", re.IGNORECASE)
# what begins a new sentence after a single letter and a full stop, as in "a letter A. The other"
_NEW_SENTENCE = re.compile(
    r"\s+(?:A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Mr\.|Ms\."
    r"|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|Yet|You"
    r")\s|\s*$"
)

_LETTER = r"(?:[^\W\d_\xb2\xb3\xb9\xbc-\xbe\u2070-\u209f\u2150-\u218f]|[\u0300-\u036f])"
_ALNUM = rf"(?:{_LETTER}|\d)"
_WORD = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*"  # "u.s" and "stop!go" are one word
_SHORT = r"['\u2019](?:[msd]|re|ve|ll)"  # it's, I'm, they've
_BARE = rf"(?!{_SHORT}(?!{_LETTER}))['\u2019]"  # an apostrophe that begins none of these
_SLASHED = r"[a-z0-9]+(?:-[a-z]+){0,2}"

_SPLIT = r"can(?=not\b) | (?:gon|wan)(?=na\b) | got(?=ta\b) | (?:lem|gim)(?=me\b) | '(?=t(?:was|is)\b)t"

# the first that fits; upper and lower case are the same but in (?-i:…)
_PIECE = re.compile(
    rf"""
      (?P<whole> (?!{_SPLIT})[a-z]+(?=,?\ )                           # only for speed: most words
      | {_SPLIT}                                                      # can + not, 't + was
      | -[lr][rcs]b-
      | </?[a-z][\w:.-]*>                                             # <unk>
      | \d{{1,4}}[ \xa0-]\d{{1,4}}/\d{{1,4}}                          # 2 1/2
      | {_SLASHED}(?:/{_SLASHED}){{1,2}}                              # and/or, 1/2, 12/31/1999
      | [a-z0-9][a-z0-9.,]*(?:-(?:[a-z](?:\.[a-z])+\.|[a-z0-9]+))+(?![_\u2010\u2011]|{_ALNUM})
      | {_ALNUM}+(?:[-_\u2010\u2011]{_ALNUM}+)+                       # café-bar
      | [a-z]*[a-mo-z](?=n['\u2019]t) | n['\u2019]t(?!{_LETTER})      # do + n't
      | [dol]{_BARE}{_ALNUM}{{2,}}(?:-{_ALNUM}+)* | (?-i:[A-HJ-XZn]){_BARE}{_LETTER}{{2,}}    # o'clock, D'Arcy
      | {_LETTER}+[aeiouy]{_BARE}(?-i:[aeiouA-Z]){_LETTER}*           # Hawai'i
      | (?:[dlj]|ol|somethin|dunkin){_BARE} | y{_BARE}(?={_LETTER}) | c'mon | li'l | s'mores | cap'n | ev'ry | e'er
      | '(?:em|[2-9]0s|till?|cause|n'|n(?!\S)|\d\d(?!\S)) | {_SHORT}(?!{_LETTER})
      | (?-i:[A-Z]+(?:[&+][A-Z]+)+)                                   # AT&T
      | \d+{_LETTER}{_ALNUM}*                                         # 2nd, 70s
      | [-+]?(?:\d*(?:[.:,]\d+)+|\d+)                                 # -5, 1,000.5, 10:30
      | [#@]{_LETTER}+ | c[+][+] | [a-z0-9][\w.]*@\w+(?:\.\w+)*
      | (?-i:[A-Z]*)\$
      | [:;=][-o*']?[()dp\[\]](?![a-z0-9]) | [-^x=~<>']_[-^x=~<>']    # faces
      )
    | (?P<word> {_WORD})
    | (?P<mark> \.{{3,}} | (?:\.\ ){{2,4}}\. | [?!]+ | -+ | '' | _+ | [*]+ | @+ | [#]+
      | &(?:amp|lt|gt|quot|apos|mdash|ndash); | [^\s])
    """,
    re.VERBOSE | re.IGNORECASE,
)

_SPELLINGS = (
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    | {"\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
    | {"\xa2": "cents", "\xa3": "#", "\xa4": "$", "\u20ac": "$"}
    | {"&amp;": "&", "&lt;": "<", "&gt;": ">"}
    | dict.fromkeys(('"', "\u201c", "\u201d", "\xab", "\xbb", "&quot;"), "''")
    | dict.fromkeys(("\u2018", "\u2019", "\u201b", "\u2039", "\u203a", "&apos;"), "'")
    | dict.fromkeys(("\u2013", "\u2014", "\u2015", "---", "----", "&mdash;", "&ndash;"), "--")
    | {"\u2026": "..."}
)
_JOINED = re.compile(rf"{_WORD}|{_ALNUM}+(?:-{_ALNUM}+)*")
_CONTRACTED = re.compile(rf"{_SHORT}|n['\u2019]t", re.IGNORECASE)


def ptb_words(caption: str) -> list[str]:
    """As in the module's docstring: "A dog's tail (wet)..." → a dog 's tail -lrb- wet -rrb-; none of "" or ".".

    "2 1/2" is one word, with a space that does not break.
    """
    text = " ".join(caption.splitlines()).replace("\xad", "").replace("&apos;", "'")  # \xad: a hyphen not shown
    words, place = [], 0
    while piece := _PIECE.search(text, place):
        place = piece.end()
        if piece.lastgroup == "mark":
            words.append(_spell_mark(piece[0]))
            continue
        word = piece[0]
        if text.startswith(".", place) and _keeps_stop(piece):
            word, place = f"{word}.", place + 1
        if _CONTRACTED.fullmatch(word):
            word = word.replace("\u2019", "'")
        words.append(word.lower().replace(" ", "\xa0").replace("(", "-lrb-").replace(")", "-rrb-"))
    return [word for word in words if word and word not in PUNCTUATION]


def _keeps_stop(piece: re.Match[str]) -> bool:
    """Whether the full stop behind a piece belongs to it: it does before a comma, colon or semicolon ("dogs.,")."""
    word, text, stop = piece[0], piece.string, piece.end()
    if text.startswith((",", ";", ":"), stop + 1) and _JOINED.fullmatch(word):
        return True
    if piece.lastgroup != "word":
        return False
    if len(word) == 1 and word.isascii():
        return not _NEW_SENTENCE.match(text, stop + 1)
    return bool(_ABBREVIATION.fullmatch(word) or _BEFORE_NUMBER.match(text, piece.start()))


def _spell_mark(mark: str) -> str:
    """ "" for what the tokenizer does not know, such as emoji and variation selectors."""
    if mark.startswith(("..", ". ")):
        return "..."
    if mark in _SPELLINGS or len(mark) > 1:
        return _SPELLINGS.get(mark, mark)
    kind = unicodedata.category(mark)
    return mark if ord(mark) < 2**16 and (kind[0] in "PS" or kind == "No") else ""
