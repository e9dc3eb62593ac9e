"""The tokenizer of an artifact against the one that it was written from, of every kind."""

from __future__ import annotations

import gzip
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tokenizers.test_hugging_face import byte_level, trained_pieces
from tests.words import WordTokenizer
from vlp.deploy.export.tokenizer_file import write_tokenizer
from vlp.deploy.runtime.tokenize import ArtifactTokenizer
from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer
from vlp.tokenizers.clip import ClipTokenizer
from vlp.tokenizers.hugging_face import HuggingFaceTokenizer
from vlp.tokenizers.trained import TrainedTokenizer
from vlp.tokenizers.wordpiece import WordPieceTokenizer

TEXTS = [
    "a dog runs",
    "",
    "Two  DOGS, and (a) cat's tail!\n",
    "naïve café — ½ ﬁve 日本 😀 &amp; l&#39;eau",
    "<person> on-the/road <|endoftext|> [MASK] </s> [SEP] a_<|endoftext|>",
    " ".join(["dog"] * 90),
]
WORDS = [
    "[PAD]",
    "x",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "dog",
    "dogs",
    "run",
    "##s",
    "cafe",
    "two",
    "!",
    "e",
    "[",
    "sep",
    "]",
]
SMALL = [
    "clip",
    "trained",
    "word",
    "word albef",
    "word blip",
    "word no end",
    "word suffix",
    "byte level",
    "byte no start",
]
CLEANED = [f"byte {name}" for name in ("siglip", "open_clip_whitespace", "open_clip_lower", "open_clip_canonicalize")]


def build(kind: str, folder: Path, **options: Any) -> Tokenizer:
    name, _, variant = kind.partition(" ")
    if name == "clip":
        with gzip.open(folder / "bpe.txt.gz", "wt", encoding="utf-8") as file:
            file.write("#version\nc a\nca t</w>\nd o\ng g\n")
        return ClipTokenizer(vocabulary=folder / "bpe.txt.gz", size=517, **options)
    if name == "trained":
        tokenizer = TrainedTokenizer(size=300, **options)
        tokenizer.train(["a dog runs", "a dog and a cat run"] * 3)
        return tokenizer
    if name == "word":
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
        own: dict[str, Any] = {"": {}, "no end": {"add_end": False}, "suffix": {"answer_suffix": "[SEP]"}}.get(
            variant, {"cleaning": variant}
        )
        return WordPieceTokenizer(vocabulary=folder / "vocab.txt", **own, **options)
    if name == "pieces":
        trained_pieces(folder)
        return HuggingFaceTokenizer(vocabulary=folder / "spiece.model", **options)
    byte_level(folder, "$A </s>" if variant == "no start" else "<s> $A </s>")
    cleaning = variant if kind in CLEANED else None
    return HuggingFaceTokenizer(vocabulary=folder, cleaning=cleaning, **options)


@pytest.mark.parametrize("kind", [*SMALL, *CLEANED, "pieces"])
def test_ids_and_texts_are_those_of_the_tokenizer(tmp_path: Path, kind: str) -> None:
    tokenizer = build(kind, tmp_path, context_length=20)
    (tmp_path / "out").mkdir()
    exported = ArtifactTokenizer(tmp_path / "out" / "tokenizer.json", write_tokenizer(tokenizer, tmp_path / "out"))
    for texts in (TEXTS, TEXTS[:1], TEXTS[1:2], []):
        for text_kind in ("caption", "question", "answer"):
            expected = tokenizer(texts, kind=text_kind)
            ids, mask = exported(texts, kind=text_kind)
            assert (ids.dtype, mask.dtype) == (np.int64, np.bool_)
            np.testing.assert_array_equal(ids, expected.ids.numpy())
            np.testing.assert_array_equal(mask, expected.mask.numpy())
    assert exported.encode(TEXTS) == tokenizer.encode(TEXTS)
    for row in tokenizer(TEXTS).ids.tolist():
        assert exported.decode(row) == tokenizer.decode(row)


@pytest.mark.parametrize("kind", ["clip", "trained", "word", "byte level"])
def test_a_text_that_is_too_long_is_refused_where_it_must_not_be_cut(tmp_path: Path, kind: str) -> None:
    tokenizer = build(kind, tmp_path, context_length=8, truncate=False)
    (tmp_path / "out").mkdir()
    exported = ArtifactTokenizer(tmp_path / "out" / "tokenizer.json", write_tokenizer(tokenizer, tmp_path / "out"))
    with pytest.raises(UserError) as ours:
        exported(["a dog", TEXTS[-1]])
    with pytest.raises(UserError) as theirs:
        tokenizer(["a dog", TEXTS[-1]])
    assert str(ours.value) == str(theirs.value)
    assert "tokens are too many for context_length=8" in str(ours.value)


def test_the_original_vocabulary_of_clip(shared: Path, tmp_path: Path) -> None:
    tokenizer = ClipTokenizer(vocabulary=shared / "data/text-assets/bpe_simple_vocab_16e6.txt.gz")
    exported = ArtifactTokenizer(tmp_path / "tokenizer.json", write_tokenizer(tokenizer, tmp_path))
    texts = [*TEXTS, "a photo of a <|startoftext|><|endoftext|>", "x<|endoftext|>", "ſ 'S dog's"]
    np.testing.assert_array_equal(exported(texts)[0], tokenizer(texts).ids.numpy())


def test_several_threads_at_once(tmp_path: Path) -> None:
    tokenizer = build("trained", tmp_path)
    exported = ArtifactTokenizer(tmp_path / "tokenizer.json", write_tokenizer(tokenizer, tmp_path))
    expected, wrong = exported(TEXTS)[0].tolist(), []

    def work() -> None:
        wrong.extend(row for _ in range(50) if (row := exported(TEXTS)[0].tolist()) != expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_sentence_for_each_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not trained, so it cannot be exported"):
        write_tokenizer(TrainedTokenizer(), tmp_path)

    class Reversed(TrainedTokenizer):
        """A tokenizer with code of its own, which no file can hold."""

        def encode(self, texts: Any) -> list[list[int]]:
            return [row[::-1] for row in super().encode(texts)]

    own = Reversed(size=300)
    own.train(["a dog runs"] * 3)
    with pytest.raises(UserError, match="Reversed cannot be exported: without vlp's own code its ids of 'a photo"):
        write_tokenizer(own, tmp_path)
    with pytest.raises(UserError, match="cannot be exported"):
        write_tokenizer(WordTokenizer(), tmp_path)
    exported = ArtifactTokenizer(tmp_path / "tokenizer.json", own.rules)
    with pytest.raises(UserError, match="kind='poem' of texts: choose caption, question, answer or dialogue"):
        exported(["a"], kind="poem")
    with pytest.raises(UserError, match="texts are strings, not int"):
        exported(["a", 3])
    for tokenizer in (own, exported):
        with pytest.raises(UserError, match=r"^'a\\ud800' has half of a surrogate pair"):
            tokenizer(["a\ud800"])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: damaged"):
        ArtifactTokenizer(tmp_path / "tokenizer.json", own.rules)
