from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlp.metrics.ptb_tokenizer import ptb_words

# all printed by Stanford's tokenizer with coco-caption's options
CASES = {
    "A dog's tail (wet)...": "a dog 's tail -lrb- wet -rrb-",
    "": "",
    "?": "",
    "wow!!": "wow !!",
    "Two women don't, can't and won't; they cannot.": "two women do n't ca n't and wo n't they can not",
    "They're here, I've seen it's John's": "they 're here i 've seen it 's john 's",
    "don’t be John’s friend": "do n't be john 's friend",
    "the boys' team": "the boys team",
    "A t-shirt, a black-and-white dog and/or a stop-sign.": "a t-shirt a black-and-white dog and/or a stop-sign",
    "He's in the U.S. on a u.s flag at 5 p.m.": "he 's in the u.s. on a u.s flag at 5 p.m.",
    "Mr. Smith on Main St. and Mt. Rainier etc.": "mr. smith on main st. and mt. rainier etc.",
    "Vitamin c. jar": "vitamin c. jar",
    "The letter A. The letter B.": "the letter a the letter b",
    "Bus no. 5, so no. Not": "bus no. 5 so no not",
    "A pan of pa. and Pa. too": "a pan of pa and pa. too",
    "dogs., cats": "dogs. cats",
    "1/2 of 2 1/2 and ½": "1/2 of 2\xa01/2 and 1/2",
    "$5, 1,000.50 and 10:30 on 12/31/1999": "$ 5 1,000.50 and 10:30 on 12/31/1999",
    "US$5 or £3 or €2 or 5¢": "us$ 5 or # 3 or $ 2 or 5 cents",
    "the '70s, 1960's and 2nd": "the '70s 1960 's and 2nd",
    "rock'n'roll at 5 o'clock with D'Arcy": "rock 'n' roll at 5 o'clock with d'arcy",
    "gonna get 'em 'til y'all gotta 'tis": "gon na get 'em 'til y' all got ta 't is",
    '"quoted" and “curly” and ‘single’ and \'it\'': "quoted and curly and single and it",
    "one -- two - three — four… five ----- six": "one two three four five ----- six",
    "[a] {b} <unk>": "-lsb- a -rsb- -lcb- b -rcb- <unk>",
    "AT&T & co &amp; 50% #1 #tag @ 5 a_b * = /": "at&t & co & 50 % # 1 #tag @ 5 a_b * = /",
    "smile :) there": "smile :-rrb- there",
    "Café naïve 日本 ❤ \U0001f600 ok\u200b": "café naïve 日本 ❤ ok",
    "a\nb\r\nc": "a b c",
}  # fmt: skip


@pytest.mark.parametrize("caption", CASES)
def test_words_of_the_java_tokenizer(caption: str) -> None:
    assert " ".join(ptb_words(caption)) == CASES[caption]


def test_long_captions_and_long_words() -> None:
    assert ptb_words("a man's dog, " * 2000)[-3:] == ["man", "'s", "dog"]
    assert ptb_words("a" * 20000 + "!") == ["a" * 20000]


def test_reference_captions(shared: Path) -> None:
    folder = shared / "reference/metrics"
    raw = json.loads((folder / "caption_raw.json").read_text())
    expected = json.loads((folder / "caption_tokenized.json").read_text())
    pairs = [
        (caption, words)
        for kind, images in raw.items()
        for image, captions in images.items()
        for caption, words in zip(captions, expected[kind][image], strict=True)
    ]
    assert len(pairs) == 300
    assert [" ".join(ptb_words(caption)) for caption, _ in pairs] == [words for _, words in pairs]
