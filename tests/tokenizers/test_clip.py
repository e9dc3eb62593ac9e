from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
import torch

from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer
from vlp.tokenizers.cleaning import open_clip_lower
from vlp.tokenizers.clip import ClipTokenizer

BPE = "data/text-assets/bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> ClipTokenizer:
    return ClipTokenizer(vocabulary=shared / BPE)


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict:
    return json.loads((shared / "reference/openai_clip/preprocess/tokenizer.json").read_text())


@pytest.fixture
def small(tmp_path: Path) -> ClipTokenizer:
    """A vocabulary of our own with three merges: no file of others is needed."""
    with gzip.open(tmp_path / "bpe.txt.gz", "wt", encoding="utf-8") as file:
        file.write("#version\nc a\nca t</w>\nd o\ng g\n")
    return ClipTokenizer(vocabulary=tmp_path / "bpe.txt.gz", size=517, context_length=8)


def test_the_originals_ids(tokenizer: ClipTokenizer, reference: dict) -> None:
    text = tokenizer(reference["texts"])
    expected = torch.tensor(reference["ids_77_truncate"])
    assert text.ids.equal(expected[:, : text.ids.shape[1]])
    assert tokenizer.encode(reference["texts"]) == reference["raw_encode"]
    assert (tokenizer.size, tokenizer.start_id, tokenizer.end_id) == (49408, 49406, 49407)


def test_a_short_context_keeps_the_end_token(shared: Path, reference: dict) -> None:
    text = ClipTokenizer(vocabulary=shared / BPE, context_length=8)(reference["texts"][:3])
    assert text.ids.tolist() == reference["ids_ctx8_truncate_first3"]


def test_decode(tokenizer: ClipTokenizer, reference: dict) -> None:
    assert tokenizer.decode(tokenizer(["A Photo of a CAT!!", "x"]).ids[0]) == "a photo of a cat !!"
    assert tokenizer.decode(tokenizer(["日本語 😀"]).ids[0]) == "日本語 😀"


def test_same_ids_as_open_clip(tokenizer: ClipTokenizer, shared: Path) -> None:
    theirs = pytest.importorskip("open_clip").tokenizer.SimpleTokenizer()
    images = json.loads((shared / "data/flickr8k/dataset_flickr8k.json").read_text())["images"]
    captions = [sentence["raw"] for image in images[::8] for sentence in image["sentences"]]
    draw = random.Random(0)
    pieces = [
        "'s",
        "'ſ",
        "&amp;",
        "&lt;",
        "\t",
        "İ",
        "ß",
        "é",
        "ﬁ",
        "日",
        "😀",
        "\u200b",
        "1",
        "½",
        "_",
        "<|",
        "a",
        "B ",
        "…",
    ]
    odd = ["".join(draw.choices(pieces, k=draw.randrange(12))) for _ in range(2000)]
    for text, ids in zip(captions + odd, tokenizer.encode(captions + odd), strict=True):
        assert ids == theirs.encode(text), text


@pytest.mark.slow
def test_same_ids_as_open_clip_on_all_captions(tokenizer: ClipTokenizer, shared: Path) -> None:
    theirs = pytest.importorskip("open_clip").tokenizer.SimpleTokenizer()
    images = json.loads((shared / "data/flickr8k/dataset_flickr8k.json").read_text())["images"]
    captions = [sentence["raw"] for image in images for sentence in image["sentences"]]
    assert len(captions) == 40_000
    assert all(ids == theirs.encode(text) for text, ids in zip(captions, tokenizer.encode(captions), strict=True))


def test_the_vocabulary_of_an_installed_open_clip_is_found(tokenizer: ClipTokenizer) -> None:
    pytest.importorskip("open_clip")
    assert ClipTokenizer()(["a dog"]).ids.equal(tokenizer(["a dog"]).ids)


def test_specials_in_text_count_only_where_the_original_scans(small: ClipTokenizer) -> None:
    start, end = small.start_id, small.end_id
    cat = small.encode(["cat"])[0]
    assert small.encode(["<|startoftext|>cat<|endoftext|><|endoftext|> CAT"]) == [[start, *cat, end, end, *cat]]
    assert end not in small.encode(["!<|endoftext|>"])[0]  # the punctuation run takes the first two characters


def test_small_vocabulary_keeps_the_end_highest(small: ClipTokenizer) -> None:
    text = small(["cat dog", ""])
    assert small.size == 517
    assert text.ids[0, 1] == 513  # the second merge
    assert text.ids.argmax(-1).tolist() == [len(small.encode(["cat dog"])[0]) + 1, 1]


def test_from_a_hugging_face_folder(small: ClipTokenizer, tmp_path: Path) -> None:
    small.backend.model.save(str(tmp_path))
    texts = ["a cat & a dog", "", "ñandú"]
    assert ClipTokenizer(vocabulary=tmp_path, context_length=8)(texts).ids.equal(small(texts).ids)
    (tmp_path / "whole").mkdir()
    small.backend.save(str(tmp_path / "whole" / "tokenizer.json"))
    assert ClipTokenizer(vocabulary=tmp_path / "whole", context_length=8)(texts).ids.equal(small(texts).ids)


def test_a_checkpoint_needs_no_file(small: ClipTokenizer) -> None:
    again = Tokenizer.from_json(small.to_json())
    texts = ["Cat &amp; <|endoftext|> dog, and much more of it", ""]
    assert isinstance(again, ClipTokenizer)
    assert again(texts).ids.equal(small(texts).ids)
    assert again(texts).ids.shape == (2, 8)


def test_the_fast_path_for_plain_text_changes_nothing() -> None:
    import ftfy

    for text in ["plain  Text ", 'it\'s "quoted"; 100% <b>', "", "a_b-c/d"]:
        assert open_clip_lower(text) == " ".join(ftfy.fix_text(text).split()).lower()


def test_errors_name_the_place_and_the_fix(small: ClipTokenizer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.gz.*tokenizer\.vocabulary"):
        ClipTokenizer(vocabulary=tmp_path / "nowhere.gz")
    with pytest.raises(ValueError, match="514 to 518"):
        ClipTokenizer(vocabulary=tmp_path / "bpe.txt.gz", size=512)
    small.truncate = False
    with pytest.raises(ValueError, match="9 tokens are too many for context_length=8"):
        small(["cat cat cat cat cat cat cat"])
    with pytest.raises(ValueError, match=r"not a tokenizer of vlp\.tokenizers"):
        Tokenizer.from_json('{"class": "../os.system"}')


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.txt.gz", gzip.compress(b"#version\n" + b"a b\n" * 999, mtime=0)[:30]),
        ("page.txt", b"<html>\n<head>\n" * 40_000),
        ("no_version.txt", b"ab c</w>\n" * 50_000),
        ("tokenizer.json", b"[]"),
        ("latin.txt", b"\xe9 a\n" * 50_000),
    ],
)
def test_a_damaged_vocabulary_is_refused_with_its_path(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        ClipTokenizer(vocabulary=tmp_path / name)
