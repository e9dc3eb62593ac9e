"""What is to be predicted: images, and the texts that go with each. All of it is checked before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import is_id, object_of_pairs, read_lines
from vlp.data.images import open_image
from vlp.data.rounds import ROUNDS
from vlp.system.errors import UserError

JSONL_SUFFIXES = (".jsonl", ".ndjson")
INPUT_KEYS = ("image", "images", "question", "history", "captions", "choices", "rationales", "image_id", "round_id")


@dataclass(frozen=True, kw_only=True)
class PredictionInput:
    """images: one, the two of a pair, left one first, or none of a text alone.  location: where it comes from, for messages.
    history: what was said before the question, oldest first.  image_id, round_id: of a dialogue, as VisDial's leaderboard numbers
    them; None = unknown.
    """

    images: tuple[Path, ...]
    location: str
    question: str | None = None
    captions: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    rationales: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    image_id: int | None = None
    round_id: int | None = None


def read_inputs(
    paths: Sequence[Path], *, question: str | None = None, captions: Sequence[str] = (), choices: Sequence[str] = ()
) -> list[PredictionInput]:
    """Image files and the lines of JSONL files, in order. The texts are for inputs without their own. Raises ValueError or
    OSError."""
    found: list[PredictionInput] = []
    for path in paths:
        if path.suffix.lower() in JSONL_SUFFIXES:
            found += _read_jsonl(path)
        elif path.is_dir():
            raise UserError(f"{path}: is a folder; name its images, or a JSONL file that lists them")
        else:
            found.append(PredictionInput(images=(path,), location=str(path)))
    return [
        replace(
            item,
            question=question if item.question is None else item.question,
            captions=item.captions or tuple(captions),
            choices=item.choices or tuple(choices),
        )
        for item in found
    ]


def check_images(inputs: Sequence[PredictionInput]) -> None:
    """Decodes each file once: a damaged one ends the command before anything is predicted. Raises ImageError."""
    for path in dict.fromkeys(path for item in inputs for path in item.images):
        open_image(path)


def _read_jsonl(path: Path) -> list[PredictionInput]:
    found = []
    for number, line in read_lines(path, description="the list of inputs"):
        location = f"{path}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=object_of_pairs)
        except ValueError as error:
            raise UserError(f"{location}: not JSON: {error}") from error
        found.append(_parse_input(row, location, path.parent))
    if not found:
        raise UserError(f"{path}: holds no line with an image")
    return found


def _parse_input(row: Any, location: str, folder: Path) -> PredictionInput:
    if not isinstance(row, dict):
        raise UserError(f'{location}: expects an object such as {{"image": "a.jpg"}}')
    if unknown := [key for key in row if key not in INPUT_KEYS]:
        raise UserError(f"{location}: there is no key {unknown[0]!r}; the keys are {', '.join(INPUT_KEYS)}")
    images = row.get("images", [row["image"]] if "image" in row else [])
    texts = {name: row.get(name, []) for name in ("captions", "choices", "rationales", "history")}
    for name, value in {"images": images, **texts}.items():
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(f"{location}: {name} is not a list of texts")
    if not (1 <= len(images) <= 2 or (not images and row.get("question"))):  # a task may be about a text alone
        raise UserError(f"{location}: names {len(images)} images: give image, or images with the two of a pair")
    if not isinstance(row.get("question"), str | None):
        raise UserError(f"{location}: question is not a text")
    numbers = {name: row.get(name) for name in ("image_id", "round_id")}
    given = [number for number in numbers.values() if number is not None]
    if given and not (len(given) == 2 and all(map(is_id, given)) and 1 <= given[1] < ROUNDS):
        raise UserError(f"{location}: give both image_id and round_id, whole numbers, round_id from 1 to {ROUNDS - 1}")
    return PredictionInput(
        images=tuple(folder / image for image in images),
        location=location,
        question=row.get("question"),
        captions=tuple(texts["captions"]),
        choices=tuple(texts["choices"]),
        rationales=tuple(texts["rationales"]),
        history=tuple(texts["history"]),
        **numbers,
    )
