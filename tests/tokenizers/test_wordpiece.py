from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer
from vlp.tokenizers.wordpiece import WordPieceTokenizer

WORDS = ["[PAD]", "x", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "run", "##s", "cafe", "!"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


def test_ids_are_those_of_the_file(vocabulary: Path) -> None:
    tokenizer = WordPieceTokenizer(vocabulary=vocabulary)
    text = tokenizer(["A dog RUNS!", "Café zebra", ""])
    assert text.ids.tolist() == [[3, 6, 7, 8, 9, 11, 4], [3, 10, 2, 4, 0, 0, 0], [3, 4, 0, 0, 0, 0, 0]]
    assert text.mask.sum(1).tolist() == [7, 4, 2]
    assert (tokenizer.size, tokenizer.pad_id) == (12, 0)
    assert tokenizer.decode(text.ids[0]) == "a dog runs!"
    assert WordPieceTokenizer(vocabulary=vocabulary, context_length=4)(["a dog runs"]).ids.tolist() == [[3, 6, 7, 4]]


def test_case_comes_from_the_config_or_the_words(vocabulary: Path) -> None:
    vocabulary.write_text("\n".join([*WORDS, "Dog"]), encoding="utf-8")
    assert WordPieceTokenizer(vocabulary=vocabulary).encode(["Dog dog"]) == [[12, 7]]
    (vocabulary.parent / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert WordPieceTokenizer(vocabulary=vocabulary.parent).encode(["Dog dog"]) == [[7, 7]]


def test_a_folder_with_only_tokenizer_json(vocabulary: Path, tmp_path: Path) -> None:
    first = WordPieceTokenizer(vocabulary=vocabulary)
    (tmp_path / "folder").mkdir()
    first.backend.save(str(tmp_path / "folder" / "tokenizer.json"))
    again = WordPieceTokenizer(vocabulary=tmp_path / "folder")
    assert again(["A dog café [MASK]"]).ids.tolist() == first(["A dog café [MASK]"]).ids.tolist()
    assert 5 in again.encode(["a [MASK]"])[0]
    assert Tokenizer.from_json(first.to_json())(["A dog"]).ids.tolist() == [[3, 6, 7, 4]]


def test_same_ids_as_transformers(shared: Path) -> None:
    from transformers import BertTokenizerFast

    path = shared / "data/text-assets/bert-base-uncased-vocab.txt"
    texts = json.loads((shared / "reference/openai_clip/preprocess/tokenizer.json").read_text())["texts"]
    theirs = BertTokenizerFast(str(path))(texts, truncation=True, max_length=77)["input_ids"]
    text = WordPieceTokenizer(vocabulary=path)(texts)
    assert [row[kept].tolist() for row, kept in zip(text.ids, text.mask, strict=True)] == theirs


def test_a_vocabulary_of_another_kind_is_refused(vocabulary: Path) -> None:
    vocabulary.write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"has no \[CLS\]"):
        WordPieceTokenizer(vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9\n", "byte 3 is not UTF-8"),
        ("[PAD]\n".encode("utf-16"), "byte 0 is not UTF-8"),
        (b"\x1f\x8bcut", "decompressed"),
    ],
)
def test_a_vocabulary_that_is_no_text_is_refused_with_its_path(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"vocab\.txt: .*{message}"):
        WordPieceTokenizer(vocabulary=path)


def test_lines_may_end_as_on_any_system(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes("".join(token + end for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat")).encode())
        assert WordPieceTokenizer(vocabulary=path).encode(["cat"]) == [[4]]


def test_a_byte_order_mark_is_no_token_and_a_token_listed_twice_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\ufeff[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\ncat\r\ncat\r\n", encoding="utf-8", newline="")
    with pytest.warns(UserWarning, match="'cat' on several lines"):
        tokenizer = WordPieceTokenizer(vocabulary=path)
    assert tokenizer.encode(["cat"]) == [[5]]
    assert tokenizer.pad_id == 0
