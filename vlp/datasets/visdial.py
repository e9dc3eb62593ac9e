"""VisDial v1.0 in its official files: one sample a round of a dialogue, with everything that was said before it.

    visdial_1.0_{train,val,test}.json    {"split", "version", "data": {"questions": [text, ..], "answers": [text, ..],
                                         "dialogs": [{"image_id", "caption", "dialog": [{"question": index, "answer": index,
                                         "answer_options": [100 indices], "gt_index"}, ..]}, ..]}}
    visdial_1.0_val_dense_annotations.json    [{"image_id", "round_id": from 1, "gt_relevance": [100 numbers]}, ..]

Questions have no "?", which is added. A dialogue of test has 1 to 10 rounds, of which only the last has options, and that
has no answer: the rounds before it are its history. The sample of relevances of train has the key "relevance". Photos of train
are those of COCO's train2014 and val2014. Das et al., "Visual Dialog", arXiv:1611.08669; visualdialog.org; annotations CC BY 4.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import is_id, objects_in_list, objects_under_key, path_or_gzip, read_json
from vlp.data.datamodule import DataModule
from vlp.data.image_ids import image_id_from_path
from vlp.data.issues import DataError, join_first_five
from vlp.data.rounds import ROUNDS, round_key, round_numbers
from vlp.datasets.common.splits import named_splits
from vlp.structures import Sample
from vlp.system.errors import UserError

RELEVANCE_KEYS = ("gt_relevance", "relevance")
Relevances = dict[int, tuple[float, ...]]  # by `round_key`, the rounds' `Sample.sample`


@dataclass(frozen=True)
class _Release:
    """One file: its texts and dialogues, and how messages name it."""

    path: Path
    texts: dict[str, list[str]]
    dialogues: list[dict[str, Any]]


class VisDial(DataModule):
    """dialogues, relevance: of each split the files under root, one or several; null = none.  images: of each split the
    file names under root, with {id}; of several the first that is on disk.

    history: the number of rounds before the question that a sample has, after the caption; null = all.  What the tokenizer has
    no room for is cut from the start, so that the question stays.
    train_options: whether training rounds have their options, which only a discriminative model needs (100 texts a sample).
    transcripts: whether training rounds have the dialogue up to their answer as a caption, whose masked words `mlm` predicts (Wang
    et al., arXiv:2004.13278, §3.2).
    """

    def __init__(
        self,
        *,
        dialogues: Mapping[str, str | Sequence[str] | None],
        relevance: Mapping[str, str | Sequence[str] | None] | None = None,
        images: Mapping[str, str | Sequence[str] | None],
        history: int | None = None,
        train_options: bool = False,
        transcripts: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if history is not None and (isinstance(history, bool) or history < 0):
            raise UserError(f"data.history={history}: give a number of rounds, 0 or more, or null for all")
        self.dialogues = _lists(dialogues, setting="data.dialogues")
        self.relevance = _lists(relevance, setting="data.relevance")
        self.images = _lists(images, setting="data.images")
        self.history, self.train_options, self.transcripts = history, train_options, transcripts

    def samples(self, split: str) -> list[Sample]:
        relevances = self._relevances(split)
        samples = [
            sample for release in self._releases(split) for sample in self._of_release(release, relevances, split)
        ]
        message = f"{split} dialogues of {self.name}: image_ids that are not unique"
        samples = self.faults.drop_duplicates(
            samples, lambda sample: sample.sample, kind="duplicate image id", message=message
        )
        unknown = relevances.keys() - {sample.sample for sample in samples}
        if unknown:
            rounds = join_first_five(f"image {i} round {r}" for i, r in map(round_numbers, sorted(unknown)))
            message = f"{self.name}: relevances of {len(unknown)} unknown {split} rounds are left out: {rounds}"
            self.faults.warn("annotation of an unknown round", message, count=len(unknown))
        return samples

    def _releases(self, split: str) -> Iterator[_Release]:
        for name in self.dialogues[split]:
            path = path_or_gzip(self.root / name)
            with self.faults.catch_errors():
                content = read_json(path, description=f"the dialogues of {self.name}")
                data = content.get("data") if isinstance(content, dict) else None
                texts: dict[str, list[str]] = {}
                for key in ("questions", "answers"):
                    found = data.get(key) if isinstance(data, dict) else None
                    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
                        message = f"{path}: expected a list of texts under data.{key}"
                        raise DataError("unexpected structure", message)
                    texts[key] = [" ".join(text.split()) for text in found]
                yield _Release(path, texts, objects_under_key(data, "dialogs", location=f"{path}: data"))

    def _of_release(self, release: _Release, relevances: Relevances, split: str) -> Iterator[Sample]:
        for number, record in enumerate(release.dialogues):
            found: list[Sample] = []
            with self.faults.catch_errors():
                place = f"{release.path}: dialogs[{number}]"
                image, caption = record.get("image_id"), record.get("caption")
                if not is_id(image) or not isinstance(caption, str):
                    message = f"{place}: expected a whole number image_id and a text caption"
                    raise DataError("missing key", message)
                rounds = objects_under_key(record, "dialog", location=place)
                if not 1 <= len(rounds) < ROUNDS:
                    raise DataError(
                        "unexpected structure", f"{place}: {len(rounds)} rounds, expected 1 to {ROUNDS - 1}"
                    )
                file = self._image_file(image, split)
                photo = Sample(
                    id=image if Path(file).name.startswith("COCO_") else image_id_from_path(file),
                    sample=image,
                    image=self.resolve_path(self.root, file, location=place),
                )
                caption = _sentence(" ".join(caption.split()), ".")
                found = list(self._of_dialogue(photo, caption, rounds, release, relevances, split, place=place))
            yield from found

    def _image_file(self, image: int, split: str) -> str:
        names = [template.format(id=image) for template in self.images[split]]
        if not names:
            raise UserError(f"data.images.{split} names no file of a photo, such as folder/{{id:012d}}.jpg")
        return next((name for name in names if self._listings.is_file(f"{self.root}/{name}")), names[0])

    def _of_dialogue(
        self,
        photo: Sample,
        caption: str,
        rounds: Sequence[dict[str, Any]],
        release: _Release,
        relevances: Relevances,
        split: str,
        *,
        place: str,
    ) -> Iterator[Sample]:
        said: list[str] = []
        for number, record in enumerate(rounds):
            where = f"{place}.dialog[{number}]"
            question = _sentence(_text(record, "question", release, where), "?")
            last = number + 1 == len(rounds)
            if "answer_options" in record or split != "test" or last:
                before = said if self.history is None else said[max(0, len(said) - self.history) :]
                key = round_key(photo.sample, number + 1)
                options = self._options(record, release, relevances.get(key), split, place=where)
                history = (caption, *before) if caption else tuple(before)
                sample = Sample(
                    id=photo.id, sample=key, image=photo.image, question=question, history=history, **options
                )
                if self.transcripts and split == "train":
                    answer = _sentence(sample.answers[0], ".")
                    sample = replace(sample, captions=(" ".join((*history, question, answer)),))
                yield sample
            if not last:
                said.append(f"{question} {_sentence(_text(record, 'answer', release, where), '.')}")

    def _options(
        self, record: dict[str, Any], release: _Release, relevance: tuple[float, ...] | None, split: str, *, place: str
    ) -> dict[str, Any]:
        """The fields of a sample that come of its options. Only the last rounds of test have no gt_index."""
        listed, label = record.get("answer_options"), record.get("gt_index")
        answers = release.texts["answers"]
        if not isinstance(listed, list) or not listed or not all(_is_index(item, answers) for item in listed):
            message = f"{place}: answer_options must be a list of positions in data.answers"
            raise DataError("missing key", message)
        if (label is None and split != "test") or (label is not None and not _is_index(label, listed)):
            raise DataError("missing key", f"{place}: gt_index must be a position in answer_options, not {label!r}")
        if label is not None and "answer" in record and answers[listed[label]] != answers[record["answer"]]:
            message = f"{place}: the option at gt_index is {answers[listed[label]]!r}, the answer {answers[record['answer']]!r}"
            raise DataError("contradicting annotations", message)
        if relevance is not None and len(relevance) != len(listed):
            message = f"{place}: {len(listed)} options, and {len(relevance)} relevances in the file of data.relevance"
            raise DataError("relevance of other options", message)
        fields: dict[str, Any] = {} if label is None else {"answers": (answers[listed[label]],), "label": label}
        if split == "train" and not self.train_options:
            return {key: fields[key] for key in ("answers",)}
        return fields | {"choices": tuple(answers[item] for item in listed), "relevance": relevance or ()}

    def _relevances(self, split: str) -> Relevances:
        found: Relevances = {}
        for name in self.relevance[split]:
            path = path_or_gzip(self.root / name)
            with self.faults.catch_errors():
                records = objects_in_list(read_json(path, description=f"the relevances of {self.name}"), location=path)
                for number, record in enumerate(records):
                    with self.faults.catch_errors():
                        key, values = _relevance(record, f"{path}: [{number}]")
                        if key in found:
                            message = f"{path}: [{number}]: this round was listed before"
                            raise DataError("duplicate annotation id", message)
                        found[key] = values
        return found


def _relevance(record: dict[str, Any], place: str) -> tuple[int, tuple[float, ...]]:
    image, number = record.get("image_id"), record.get("round_id")
    values = next((record[key] for key in RELEVANCE_KEYS if key in record), None)
    if not is_id(image) or not is_id(number) or not 1 <= number < ROUNDS:
        message = f"{place}: expected a whole number image_id, and round_id from 1"
        raise DataError("missing key", message)
    if not isinstance(values, list) or not all(_is_share(value) for value in values):
        message = f"{place}: expected a list of numbers from 0 to 1 under {' or '.join(RELEVANCE_KEYS)}"
        raise DataError("missing key", message)
    return round_key(image, number), tuple(map(float, values))


def _lists(given: Mapping[str, str | Sequence[str] | None] | None, *, setting: str) -> dict[str, list[str]]:
    named = named_splits(given, setting=setting)
    return {split: [names] if isinstance(names, str) else list(names or []) for split, names in named.items()}


def _sentence(text: str, mark: str) -> str:
    return text if not text or text[-1] in ".?!" else text + mark


def _text(record: dict[str, Any], key: str, release: _Release, place: str) -> str:
    index, texts = record.get(key), release.texts[f"{key}s"]
    if not _is_index(index, texts):
        raise DataError("missing key", f"{place}: {key} must be a position in data.{key}s, not {str(index)[:80]}")
    return texts[index]  # type: ignore[index]


def _is_index(value: object, listed: Sequence[object]) -> bool:
    return is_id(value) and value < len(listed)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
