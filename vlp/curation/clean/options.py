"""The options of `vlp data clean --set`: each field is one, with its help text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from vlp.curation.duplicates.perceptual_hash import MAX_DISTANCE
from vlp.system.errors import UserError
from vlp.system.suggest import nearest_option


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class CleanOptions:
    """0 switches a threshold off, False a rule. Shares are from 0 to 1."""

    splits: tuple[str, ...] = _field(("train",), "splits to clean; the others are not changed")

    unreadable: bool = _field(True, "drop images that cannot be read")
    min_side: int = _field(32, "smallest shorter side in pixels; ALIGN and DataComp take 200 for web images")
    max_aspect: float = _field(3.0, "longest side over shortest, as in ALIGN and DataComp")
    evaluation: bool = _field(True, "drop images that are also in a later split or in an evaluation set")
    near_duplicates: bool = _field(True, "of near duplicates in a split keep the first")
    most_captions: bool = _field(False, "of near duplicates keep the one with the most captions instead")
    distance: int = _field(MAX_DISTANCE, "bits of 64 in which the perceptual hashes of copies may differ")

    duplicate_captions: bool = _field(True, "of an image's equal captions keep one")
    min_words: int = _field(2, "fewest words of a caption; in scripts without spaces each character counts as one")
    max_words: int = _field(200, "most words of a caption")
    min_letters: float = _field(0.6, "smallest share of letters, of any script, among the characters but spaces")
    max_digits: float = _field(0.3, "largest share of digits among the characters but spaces")
    max_repeated: float = _field(0.6, "largest share of words that occur in the caption before")
    max_run: int = _field(5, "how often one character or word may occur in a row")
    addresses: bool = _field(True, "drop captions with a web or e-mail address")
    file_names: bool = _field(True, "drop captions with a file name, such as IMG_1234 or dog.jpg")
    capitals: bool = _field(False, "drop captions that are all in capitals")
    caption_share: float = _field(0.001, "largest share of images (and at least 10) that may have the same caption")
    phrase_share: float = _field(0.02, "largest share of images (and at least 36) that may have a boilerplate phrase")

    workers: int = _field(0, "processes that read images; 0 = one per processor, at most 4")

    def __post_init__(self) -> None:
        for name in ("min_letters", "max_digits", "max_repeated", "caption_share", "phrase_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: a share is a number from 0 to 1")
        for name in ("min_side", "min_words", "max_words", "max_run", "workers", "distance"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)}: give 0 to switch it off, or a number above 0")
        if self.max_aspect and self.max_aspect < 1:
            raise UserError(
                f"max_aspect={self.max_aspect}: longest side over shortest is at least 1; 0 switches it off"
            )


def parse_options(settings: Sequence[str]) -> CleanOptions:
    """From `name=value` texts.  Raises UserError for an unknown name or a value of another type."""
    defaults = {option.name: option.default for option in fields(CleanOptions)}
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in defaults:
            raise UserError(f"--set {setting}: there is no {name}:{nearest_option(name, defaults)}".rstrip(":"))
        values[name] = _parse_value(text, defaults[name], setting)
    return CleanOptions(**values)


def _parse_value(text: str, default: Any, setting: str) -> Any:
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(default, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise UserError(f"--set {setting}: write true or false")
        return text.lower() in ("true", "1")
    try:
        return type(default)(text)
    except ValueError as error:
        raise UserError(f"--set {setting}: expects a number such as {default}") from error


def options_help() -> str:
    """A line for each option: its name, default and meaning."""
    width = max(len(option.name) for option in fields(CleanOptions))
    return "".join(f"{o.name:{width}}  {o.default!s:12} {o.metadata['help']}\n" for o in fields(CleanOptions))
