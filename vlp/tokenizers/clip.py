"""CLIP's byte-level BPE, id for id (Radford et al. 2021, arXiv 2103.00020; openai/CLIP clip/simple_tokenizer.py).

How a text is cleaned, and how it may spell out special tokens: see `vlp.tokenizers.clip_encoding`. A text that is too long is
truncated before the end token; the original raises an error by default (`truncate: false` does that here).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, pre_tokenizers

from vlp.system.errors import UserError, is_user_error
from vlp.system.json_files import read_json_object
from vlp.tokenizers.base import Tokenizer, find_vocabulary, read_vocabulary_lines
from vlp.tokenizers.cleaning import import_ftfy
from vlp.tokenizers.clip_encoding import END, START, encode_clip

# the original ignores case, and then ſ (long s) equals s
WORDS = r"'[sſ]|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer(Tokenizer):
    """vocabulary: `bpe_simple_vocab_16e6.txt.gz`, or a Hugging Face CLIP folder, its tokenizer.json or its hub name;
    None = the file inside an installed open_clip_torch.  size: fewer ids keep the file's first merges.
    """

    encoding = "clip"

    def __init__(
        self, *, vocabulary: str | Path | None = None, size: int | None = None, context_length: int = 77,
        truncate: bool = True,
    ) -> None:  # fmt: skip
        import_ftfy()  # its absence is reported now, and not at the first text
        path = _open_clip_vocabulary() if vocabulary is None else find_vocabulary(vocabulary, ("*.json", "merges.txt"))
        hugging_face = path.is_dir() or path.suffix == ".json"
        with _damage_named(path):
            ids, merges = _read_hugging_face(path) if hugging_face else _read_merges(path, size)
        if size not in (None, len(ids)):
            raise UserError(f"tokenizer.size={size}, but {path} has {len(ids)} ids: set tokenizer.size=null")
        missing = [token for token in (START, END) if token not in ids]
        if missing:
            raise UserError(f"{path} is not CLIP's vocabulary: it has no {missing[0]}; set tokenizer.vocabulary")
        # a tiny vocabulary may lack bytes; Hugging Face's CLIP then uses <unk> or the end token
        complete = all(byte in ids and byte + "</w>" in ids for byte in _byte_characters())
        unknown = None if complete else "<unk>" if "<unk>" in ids else END
        with _damage_named(path):
            model = tokenizers.models.BPE(ids, merges, unk_token=unknown, end_of_word_suffix="</w>")
        backend = tokenizers.Tokenizer(model)
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
        super().__init__(
            backend=backend, size=len(ids), context_length=context_length, start_id=ids[START], end_id=ids[END],
            pad_id=0, truncate=truncate,
        )  # fmt: skip

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return encode_clip(texts, super().encode, start_id=self.start_id, end_id=self.end_id)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """What goes wrong inside, also within the Rust library, as a UserError that names the file."""
    try:
        yield
    except Exception as error:
        if is_user_error(error):
            raise
        message = (
            f"{path} is damaged or no vocabulary of CLIP ({error}): download it again, or set tokenizer.vocabulary"
        )
        raise UserError(message) from error


def _open_clip_vocabulary() -> Path:
    """The file inside an installed open_clip_torch."""
    package = importlib.util.find_spec("open_clip")
    path = Path(package.origin or "").parent / "bpe_simple_vocab_16e6.txt.gz" if package else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            "CLIP's vocabulary is not on this machine: set tokenizer.vocabulary=PATH to bpe_simple_vocab_16e6.txt.gz "
            "or to a Hugging Face CLIP folder, or pip install open_clip_torch, which brings it"
        )
    return path


def _byte_characters() -> list[str]:
    """The printable character for each byte, in the order of CLIP's first 256 ids (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(0x100 + index) for index in range(256 - len(printable))]


def _read_merges(path: Path, size: int | None) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(token ids, merges) of OpenAI's file, reduced to `size` ids."""
    size = size or 49408
    count = size - 514  # 256 bytes inside and 256 at the end of a word, start and end
    lines = read_vocabulary_lines(path)[1:]  # the first line is a version
    if not 0 <= count <= len(lines):
        raise UserError(f"tokenizer.size={size}: with the merges at {path} give 514 to {len(lines) + 514}")
    merges = [(left, right) for left, right in (line.split() for line in lines[:count])]
    characters = _byte_characters()
    tokens = [
        *characters,
        *(byte + "</w>" for byte in characters),
        *(left + right for left, right in merges),
        START,
        END,
    ]
    return {token: index for index, token in enumerate(tokens)}, merges


def _read_hugging_face(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(token ids, merges) of a tokenizer.json or of vocab.json with merges.txt."""
    tokenizer_file = path / "tokenizer.json" if path.is_dir() else path
    if tokenizer_file.is_file():
        content = read_json_object(tokenizer_file)
        model = content.get("model", {})
        if model.get("type", "BPE") != "BPE" or "merges" not in model:
            raise UserError(f"{tokenizer_file} has no BPE vocabulary, so it is not CLIP's: set tokenizer.vocabulary")
        ids = {**model["vocab"], **{token["content"]: token["id"] for token in content.get("added_tokens", [])}}
        lines = model["merges"]
    elif (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        ids = read_json_object(path / "vocab.json")
        lines = (path / "merges.txt").read_text(encoding="utf-8").split("\n")
        lines = [line for line in lines if line.strip() and not line.startswith("#version")]
    else:
        raise FileNotFoundError(f"{path} has neither tokenizer.json nor vocab.json with merges.txt")
    pairs = (line.split(" ") if isinstance(line, str) else line for line in lines)
    return ids, [(left, right) for left, right in pairs]
