"""Tokenizers of Hugging Face folders give the ids of transformers, of open_clip and of sentencepiece, id for id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import transformers
from tokenizers import decoders, normalizers, pre_tokenizers, processors, trainers

from vlp.tokenizers.base import Tokenizer
from vlp.tokenizers.hugging_face import HuggingFaceTokenizer

CORPUS = ["a dog runs in the snow", "two dogs and a cat", "the red house by the sea", "a cat sleeps on a red sofa"] * 20
TEXTS = [
    "A dog, in the SNOW!",
    "two  cats_and (dogs)",
    "zebra \u2013 caf\u00e9 \ufb01ve",
    "",
    "  a   red\thouse\n",
    "x" * 30,
]


def byte_level(folder: Path, template: str) -> None:
    """RoBERTa's kind."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 2)])
    backend.enable_padding(length=30, pad_id=1, pad_token="<pad>")
    special = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


@pytest.mark.parametrize(
    ("template", "start", "end"), [("<s> $A </s>", 1, 1), ("$A </s>", 0, 1), ("<s> $A", 1, 0), ("$A", 0, 0)]
)
def test_the_ids_of_transformers(tmp_path: Path, template: str, start: int, end: int) -> None:
    byte_level(tmp_path, template)
    reference, tokenizer = (
        transformers.AutoTokenizer.from_pretrained(tmp_path),
        HuggingFaceTokenizer(vocabulary=tmp_path, context_length=12),
    )
    expected = reference(TEXTS, padding="longest", truncation=True, max_length=12)
    for one in (tokenizer, Tokenizer.from_json(tokenizer.to_json())):
        text = one(TEXTS)
        assert text.ids.tolist() == expected["input_ids"]
        assert text.mask.long().tolist() == expected["attention_mask"]
    assert (tokenizer.add_start, tokenizer.add_end, tokenizer.pad_id, tokenizer.mask_id) == (start, end, 1, 4)
    assert tokenizer.decode(tokenizer(["two dogs"]).ids[0]) == "two dogs"
    assert tokenizer.size == len(reference)


def test_the_ids_of_open_clip(tmp_path: Path) -> None:
    library = pytest.importorskip("open_clip")
    byte_level(tmp_path, "<s> $A </s>")
    for clean in ("whitespace", "lower", "canonicalize"):
        reference = library.tokenizer.HFTokenizer(str(tmp_path), context_length=20, clean=clean)
        ids = HuggingFaceTokenizer(vocabulary=tmp_path, context_length=20, cleaning=f"open_clip_{clean}")(TEXTS).ids
        assert ids.tolist() == reference(TEXTS)[:, : ids.shape[1]].tolist(), clean


def trained_pieces(folder: Path, **options: object) -> None:
    """A unigram model with SigLIP's special ids."""
    library, size = pytest.importorskip("sentencepiece"), 340 if options else 60
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(folder / "spiece"), vocab_size=size, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False, **options,
    )  # fmt: skip


def test_siglips_ids(tmp_path: Path) -> None:
    trained_pieces(tmp_path)
    reference = transformers.SiglipTokenizer(vocab_file=str(tmp_path / "spiece.model"), model_max_length=16)
    reference.save_pretrained(tmp_path / "saved")
    tokenizer = HuggingFaceTokenizer(vocabulary=tmp_path / "saved", context_length=16)
    for one in (tokenizer, Tokenizer.from_json(tokenizer.to_json())):
        for text in TEXTS:
            expected = reference([text], padding="max_length", truncation=True, max_length=16)["input_ids"][0]
            found = one([text]).ids[0].tolist()
            assert found + [1] * (16 - len(found)) == expected, text
    assert (tokenizer.pad_id, tokenizer.end_id, tokenizer.add_start, tokenizer.cleaning) == (1, 1, False, "siglip")
    assert tokenizer.encode(["</s>"]) != [[1]], "where transformers would end the text, a caption's words stay words"
    assert tokenizer.decode(tokenizer(["a red house"]).ids[0]) == "a red house"
    flags = tokenizer.continuation_flags()
    assert not flags[tokenizer.encode(["dog"])[0][0]]
    assert bool(flags.any())


@pytest.mark.parametrize(
    "options", [{}, {"byte_fallback": True}, {"add_dummy_prefix": False}, {"normalization_rule_name": "identity"}]
)
def test_pieces_are_those_of_sentencepiece(tmp_path: Path, options: dict[str, object]) -> None:
    trained_pieces(tmp_path, **options)
    library = pytest.importorskip("sentencepiece")
    reference = library.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    tokenizer = HuggingFaceTokenizer(vocabulary=tmp_path / "spiece.model", context_length=64)
    for text in ("a dog runs", "two  cats and", "zebra caf\u00e9", "", " a  house "):
        assert tokenizer.encode([text])[0] == reference.encode(text), text


def test_lower_case_of_the_file_is_kept(tmp_path: Path) -> None:
    """SigLIP 2's: Gemma's with a lower-casing normaliser."""
    byte_level(tmp_path, "$A </s>")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    backend.normalizer = normalizers.Lowercase()
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = HuggingFaceTokenizer(vocabulary=tmp_path)
    assert tokenizer.encode(["Two DOGS"]) == tokenizer.encode(["two dogs"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none of tokenizer\.json, spiece\.model"):
        HuggingFaceTokenizer(vocabulary=tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"\x0a\xff")
    with pytest.raises(ValueError, match="damaged, or no SentencePiece model"):
        HuggingFaceTokenizer(vocabulary=tmp_path)
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="names no padding token"):
        HuggingFaceTokenizer(vocabulary=tmp_path)
    pytest.importorskip("sentencepiece").SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(tmp_path / "pairs"),
        vocab_size=50,
        model_type="bpe",
        minloglevel=2,
    )
    with pytest.raises(ValueError, match="no unigram model"):
        HuggingFaceTokenizer(vocabulary=tmp_path / "pairs.model")
