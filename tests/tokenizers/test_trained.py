from __future__ import annotations

import random

import pytest

from vlp.tokenizers.base import Tokenizer
from vlp.tokenizers.trained import TrainedTokenizer

CAPTIONS = [
    f"a {size} {colour} {shape} is left of the {other} circle"
    for size in ("small", "large", "tiny")
    for colour in ("red", "green", "blue", "yellow")
    for shape in ("square", "triangle", "star")
    for other in ("grey", "purple")
]


def trained(captions: list[str], size: int = 400) -> TrainedTokenizer:
    tokenizer = TrainedTokenizer(size=size, context_length=16)
    tokenizer.train(captions)
    return tokenizer


def test_fills_exactly_its_size_and_the_end_is_highest() -> None:
    for captions, size in ((CAPTIONS, 300), (CAPTIONS, 400), (["a cat a cat"], 500), ([], 260)):
        tokenizer = trained(captions, size)
        assert sorted(tokenizer.backend.get_vocab().values()) == list(range(size))
        text = tokenizer(["a red star", ""])
        assert text.ids.argmax(-1).tolist() == [int(text.mask[0].sum()) - 1, 1]
        assert text.ids.max() == size - 1 == tokenizer.end_id


def test_depends_on_the_captions_and_not_on_their_order() -> None:
    shuffled = random.Random(1).sample(CAPTIONS, len(CAPTIONS))
    assert trained(shuffled).to_json() == trained(CAPTIONS).to_json()
    assert trained(CAPTIONS[:6]).to_json() != trained(CAPTIONS).to_json()


def test_frequent_words_become_one_token_and_any_text_is_kept() -> None:
    tokenizer = trained(CAPTIONS)
    assert len(tokenizer.encode(["Circle"])[0]) == 1
    text = "a zebra , 日本 ñ 😀"
    assert tokenizer.decode(tokenizer([text]).ids[0]) != text  # longer than the context
    tokenizer.context_length = 77
    assert tokenizer.decode(tokenizer([text.upper()]).ids[0]) == text


def test_no_caption_spells_a_special_token() -> None:
    tokenizer = trained([*CAPTIONS, "<pad> <start> <end> <reserved 300>"])
    ids = tokenizer.encode(["<pad><start><end><reserved 399>"])[0]
    assert not {tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id} & set(ids)


def test_a_checkpoint_holds_it() -> None:
    tokenizer = trained(CAPTIONS)
    repeated = Tokenizer.from_json(tokenizer.to_json())
    assert isinstance(repeated, TrainedTokenizer)
    assert repeated.trained
    assert repeated(CAPTIONS).ids.equal(tokenizer(CAPTIONS).ids)
    assert (repeated.size, repeated.context_length, repeated.pad_id) == (400, 16, 0)


def test_untrained_is_an_error_and_its_size_is_known() -> None:
    tokenizer = TrainedTokenizer(size=400)
    assert (tokenizer.size, tokenizer.trained) == (400, False)
    with pytest.raises(ValueError, match=r"call train\(captions\) first"):
        tokenizer(["a"])
    with pytest.raises(ValueError, match="at least 260"):
        TrainedTokenizer(size=100)


def test_a_text_that_is_written_comes_back_as_it_was() -> None:
    texts = [
        "Two young, White males aren't outside (near) many bushes!",
        "Ein Hund läuft über 3 Wiesen: schön...",
        "[v] und [v].",
    ]
    tokenizer = TrainedTokenizer(size=600, context_length=64, lowercase=False, keep_spaces=True)
    tokenizer.train([*CAPTIONS, *texts])
    for written in (tokenizer, Tokenizer.from_json(tokenizer.to_json())):
        assert [written.decode(row) for row in written(texts, kind="answer").ids] == texts
        assert written.decode(written(["  Two\t young  males "]).ids[0]) == "Two young males"


def test_signs_do_not_continue_the_word_before_them() -> None:
    tokenizer = TrainedTokenizer(size=400, context_length=64, keep_spaces=True)
    tokenizer.train(["a star, a star, unstars"] * 3)
    tokenizer = Tokenizer.from_json(tokenizer.to_json())
    ids = tokenizer.encode(["a star, zx"])[0]
    flags = tokenizer.continuation_flags()[ids].tolist()
    assert flags == [False, False, False, False, True, True] or flags == [False, False, False, False, True]


def test_a_masked_word_is_one_piece_and_case_is_a_setting() -> None:
    texts = ["the [v] Star is [v]"] * 4
    for keep_spaces in (False, True):
        tokenizer = TrainedTokenizer(size=320, lowercase=False, keep_spaces=keep_spaces)
        tokenizer.train(texts)
        assert len(tokenizer.encode(["[v]"])[0]) == 1
        assert tokenizer.decode(tokenizer(["the [v] Star"]).ids[0]) == "the [v] Star"
