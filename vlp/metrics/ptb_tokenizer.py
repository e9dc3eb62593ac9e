"""The tokenizer of COCO's caption evaluation: Penn Treebank words in lower case, without punctuation.

The words are those of Stanford's PTBTokenizer 3.4.1 with -lowerCase, as tylin/coco-caption calls it (Chen et al.,
"Microsoft COCO Captions", arXiv 1504.00325; pycocoevalcap/tokenizer/ptbtokenizer.py). The original is a Java program; this
is a reimplementation for captions, compared with its output on COCO, Flickr8k and Pascal. Not implemented: web addresses,
file names, telephone numbers, mark-up with attributes, letters outside Unicode's first plane.

Two differences are deliberate: a line break inside a caption is a space (in the original it shifts all later captions), and
a caption's words do not depend on the next caption of the file. The original keeps the full stop of "vitamin c." unless the
next caption begins with "A", "The" or similar, as most do; here it is always removed.
"""

from __future__ import annotations

import re
import unicodedata

# the tokens that coco-caption removes; brackets stay, because it searches for -LRB- in words that are already lower case
PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})

# words that keep their full stop: initials, titles, dates, firms, streets, states; those of the last line if capitalised
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
_ABBREVIATION_BEFORE_NUMBER = re.compile(r"(?:art|bldg|ca|figs?|nos?|op|pp|prop)\.\s?\d", re.IGNORECASE)
# the beginning of a new sentence after a single letter and a full stop, as in "a letter A. The other"
_NEW_SENTENCE = re.compile(
    r"\s+(?:A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Mr\.|Ms\."
    r"|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|Yet|You"
    r")\s|\s*$"
)

_LETTER = r"(?:[^\W\d_\xb2\xb3\xb9\xbc-\xbe\u2070-\u209f\u2150-\u218f]|[\u0300-\u036f])"
_ALNUM = rf"(?:{_LETTER}|\d)"
_WORD = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*"  # "u.s" and "stop!go" are one word
_CONTRACTION = r"['\u2019](?:[msd]|re|ve|ll)"  # it's, I'm, they've
_APOSTROPHE = rf"(?!{_CONTRACTION}(?!{_LETTER}))['\u2019]"  # an apostrophe that begins none of these
_SLASH_PART = r"[a-z0-9]+(?:-[a-z]+){0,2}"

_SPLIT_START = r"can(?=not\b) | (?:gon|wan)(?=na\b) | got(?=ta\b) | (?:lem|gim)(?=me\b) | '(?=t(?:was|is)\b)t"

# the first alternative that matches; case is ignored except in (?-i:…)
_TOKEN = re.compile(
    rf"""
      (?P<special> (?!{_SPLIT_START})[a-z]+(?=,?\ )                             # only for speed: most words
      | {_SPLIT_START}                                                          # can + not, 't + was
      | -[lr][rcs]b-
      | </?[a-z][\w:.-]*>                                                       # <unk>
      | \d{{1,4}}[ \xa0-]\d{{1,4}}/\d{{1,4}}                                    # 2 1/2
      | {_SLASH_PART}(?:/{_SLASH_PART}){{1,2}}                                  # and/or, 1/2, 12/31/1999
      | [a-z0-9][a-z0-9.,]*(?:-(?:[a-z](?:\.[a-z])+\.|[a-z0-9]+))+(?![_\u2010\u2011]|{_ALNUM})
      | {_ALNUM}+(?:[-_\u2010\u2011]{_ALNUM}+)+                                 # café-bar
      | [a-z]*[a-mo-z](?=n['\u2019]t) | n['\u2019]t(?!{_LETTER})                # do + n't
      | [dol]{_APOSTROPHE}{_ALNUM}{{2,}}(?:-{_ALNUM}+)* | (?-i:[A-HJ-XZn]){_APOSTROPHE}{_LETTER}{{2,}}  # o'clock, D'Arcy
      | {_LETTER}+[aeiouy]{_APOSTROPHE}(?-i:[aeiouA-Z]){_LETTER}*               # Hawai'i
      | (?:[dlj]|ol|somethin|dunkin){_APOSTROPHE} | y{_APOSTROPHE}(?={_LETTER}) | c'mon | li'l | s'mores | cap'n | ev'ry | e'er
      | '(?:em|[2-9]0s|till?|cause|n'|n(?!\S)|\d\d(?!\S)) | {_CONTRACTION}(?!{_LETTER})
      | (?-i:[A-Z]+(?:[&+][A-Z]+)+)                                             # AT&T
      | \d+{_LETTER}{_ALNUM}*                                                   # 2nd, 70s
      | [-+]?(?:\d*(?:[.:,]\d+)+|\d+)                                           # -5, 1,000.5, 10:30
      | [#@]{_LETTER}+ | c[+][+] | [a-z0-9][\w.]*@\w+(?:\.\w+)*
      | (?-i:[A-Z]*)\$
      | [:;=][-o*']?[()dp\[\]](?![a-z0-9]) | [-^x=~<>']_[-^x=~<>']              # faces
      )
    | (?P<word> {_WORD})
    | (?P<mark> \.{{3,}} | (?:\.\ ){{2,4}}\. | [?!]+ | -+ | '' | _+ | [*]+ | @+ | [#]+
      | &(?:amp|lt|gt|quot|apos|mdash|ndash); | [^\s])
    """,
    re.VERBOSE | re.IGNORECASE,
)

_NORMALISED_MARKS = (
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    | {"\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
    | {"\xa2": "cents", "\xa3": "#", "\xa4": "$", "\u20ac": "$"}
    | {"&amp;": "&", "&lt;": "<", "&gt;": ">"}
    | dict.fromkeys(('"', "\u201c", "\u201d", "\xab", "\xbb", "&quot;"), "''")
    | dict.fromkeys(("\u2018", "\u2019", "\u201b", "\u2039", "\u203a", "&apos;"), "'")
    | dict.fromkeys(("\u2013", "\u2014", "\u2015", "---", "----", "&mdash;", "&ndash;"), "--")
    | {"\u2026": "..."}
)
_HYPHENATED_WORD = re.compile(rf"{_WORD}|{_ALNUM}+(?:-{_ALNUM}+)*")
_IS_CONTRACTION = re.compile(rf"{_CONTRACTION}|n['\u2019]t", re.IGNORECASE)


def ptb_words(caption: str) -> list[str]:
    """For example "A dog's tail (wet)..." → a dog 's tail -lrb- wet -rrb-; "" and "." have no words.

    "2 1/2" is one word, with a non-breaking space.
    """
    text = " ".join(caption.splitlines()).replace("\xad", "").replace("&apos;", "'")  # \xad: the invisible hyphen
    words, position = [], 0
    while token := _TOKEN.search(text, position):
        position = token.end()
        if token.lastgroup == "mark":
            words.append(_normalise_mark(token[0]))
            continue
        word = token[0]
        if text.startswith(".", position) and _keeps_full_stop(token):
            word, position = f"{word}.", position + 1
        if _IS_CONTRACTION.fullmatch(word):
            word = word.replace("\u2019", "'")
        words.append(word.lower().replace(" ", "\xa0").replace("(", "-lrb-").replace(")", "-rrb-"))
    return [word for word in words if word and word not in PUNCTUATION]


def _keeps_full_stop(token: re.Match[str]) -> bool:
    """Whether the full stop after a token belongs to it: it does before a comma, colon or semicolon ("dogs.,")."""
    word, text, stop = token[0], token.string, token.end()
    if text.startswith((",", ";", ":"), stop + 1) and _HYPHENATED_WORD.fullmatch(word):
        return True
    if token.lastgroup != "word":
        return False
    if len(word) == 1 and word.isascii():
        return not _NEW_SENTENCE.match(text, stop + 1)
    return bool(_ABBREVIATION.fullmatch(word) or _ABBREVIATION_BEFORE_NUMBER.match(text, token.start()))


def _normalise_mark(mark: str) -> str:
    """A punctuation mark as the Penn Treebank writes it; "" for unknown ones, such as emoji and variation selectors."""
    if mark.startswith(("..", ". ")):
        return "..."
    if mark in _NORMALISED_MARKS or len(mark) > 1:
        return _NORMALISED_MARKS.get(mark, mark)
    category = unicodedata.category(mark)
    return mark if ord(mark) < 2**16 and (category[0] in "PS" or category == "No") else ""
