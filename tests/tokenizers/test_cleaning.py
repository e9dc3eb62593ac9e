"""ALBEF's and BLIP's text cleaning and ALBEF's missing [SEP], to the letter and the id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlp.tokenizers.base import Tokenizer
from vlp.tokenizers.cleaning import albef, blip
from vlp.tokenizers.wordpiece import WordPieceTokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s", "red"]


def test_albefs_cleaning(shared: Path) -> None:
    expected = json.loads((shared / "reference" / "albef" / "preprocess" / "text.json").read_text())
    for kind, words in (("caption", 30), ("caption", 5), ("question", 50), ("question", 5)):
        assert [albef(text, kind, words) for text in expected["texts"]] == expected[f"pre_{kind}_{words}"]


def test_albefs_ids(shared: Path) -> None:
    expected = json.loads((shared / "reference" / "albef" / "preprocess" / "text.json").read_text())
    vocabulary = shared / "reference" / "albef" / "vocab.txt"
    tokenizer = WordPieceTokenizer(vocabulary=vocabulary, context_length=25, add_end=False)
    text = tokenizer(expected["texts"])
    assert text.ids.tolist() == expected["longest_25"]["input_ids"]
    assert text.mask.long().tolist() == expected["longest_25"]["attention_mask"]


def tokenizer_of(tmp_path: Path, **options: object) -> WordPieceTokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return WordPieceTokenizer(vocabulary=tmp_path / "vocab.txt", **options)


def test_only_answers_end_where_captions_do_not(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, add_end=False, cleaning="albef")
    restored = Tokenizer.from_json(tokenizer.to_json())
    for one in (tokenizer, restored):
        assert one(["A dog!"]).ids.tolist() == [[2, 5, 6]]
        assert one(["A dog?"], kind="question").ids.tolist() == [[2, 5, 6]]
        assert one(["red dog"], kind="answer").ids.tolist() == [[2, 8, 6, 3]]
    assert tokenizer.continuation_flags().nonzero()[:, 0].tolist() == [WORDS.index("##s")]
    assert tokenizer.mask_id == WORDS.index("[MASK]")


def test_extra_tokens_follow_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, extra_tokens=["[DEC]", "[ENC]"])
    assert tokenizer.size == len(WORDS) + 2
    assert tokenizer(["[ENC] a"]).ids.tolist() == [[2, len(WORDS) + 1, 5, 3]]


def test_an_unknown_cleaning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose from albef"):
        tokenizer_of(tmp_path, cleaning="albeff")


def test_blips_cleaning_keeps_more_marks() -> None:
    text = """A "Dog": it's red, right?! (yes) - and/or #1;~ ok."""
    assert blip(text) == blip(text, "question") == "a dog it's red, right? yes - and/or 1 ok"
    assert blip("one.two  three. ") == "one two three"
    assert blip("one.two  three. ", "question") == "onetwo  three"
    assert blip("a " * 60).split() == ["a"] * 50
