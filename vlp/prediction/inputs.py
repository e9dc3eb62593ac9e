"""What is to be predicted: images, and the texts that go with each. All of it is checked before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlp.data.images import open_image
from vlp.system.errors import UserError

LISTS = (".jsonl", ".ndjson")
KEYS = ("image", "images", "question", "captions", "choices")


@dataclass(frozen=True, kw_only=True)
class Input:
    """images: one, or the two of a pair, left one first.  place: where it comes from, for messages."""

    images: tuple[Path, ...]
    place: str
    question: str | None = None
    captions: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


def read_inputs(
    paths: Sequence[Path], *, question: str | None = None, captions: Sequence[str] = (), choices: Sequence[str] = ()
) -> list[Input]:
    """Image files and the lines of JSONL files, in order. The texts are for inputs without their own. Raises ValueError or
    OSError."""
    found: list[Input] = []
    for path in paths:
        if path.suffix.lower() in LISTS:
            found += _read_jsonl(path)
        elif path.is_dir():
            raise UserError(f"{path}: is a folder; name its images, or a JSONL file that lists them")
        else:
            found.append(Input(images=(path,), place=str(path)))
    return [
        replace(
            one,
            question=question if one.question is None else one.question,
            captions=one.captions or tuple(captions),
            choices=one.choices or tuple(choices),
        )
        for one in found
    ]


def check_images(inputs: Sequence[Input]) -> None:
    """Decodes each file once: one that is damaged ends the command before anything is predicted. Raises ImageError."""
    for path in dict.fromkeys(path for one in inputs for path in one.images):
        open_image(path)


def _read_jsonl(path: Path) -> list[Input]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{place}: not JSON: {error}") from error
            found.append(_input(row, place, path.parent))
    if not found:
        raise UserError(f"{path}: holds no line with an image")
    return found


def _input(row: Any, place: str, folder: Path) -> Input:
    if not isinstance(row, dict):
        raise UserError(f'{place}: expects an object such as {{"image": "a.jpg"}}')
    if unknown := [key for key in row if key not in KEYS]:
        raise UserError(f"{place}: there is no key {unknown[0]!r}; the keys are {', '.join(KEYS)}")
    images = row.get("images", [row["image"]] if "image" in row else [])
    texts = {name: row.get(name, []) for name in ("captions", "choices")}
    for name, value in {"images": images, **texts}.items():
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(f"{place}: {name} is not a list of texts")
    if not 1 <= len(images) <= 2:
        raise UserError(f"{place}: names {len(images)} images: give image, or images with the two of a pair")
    if not isinstance(row.get("question"), str | None):
        raise UserError(f"{place}: question is not a text")
    return Input(
        images=tuple(folder / image for image in images),
        place=place,
        question=row.get("question"),
        captions=tuple(texts["captions"]),
        choices=tuple(texts["choices"]),
    )
