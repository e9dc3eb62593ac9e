"""The flat JSON lists of ALBEF and BLIP, for pre-training, retrieval and VQA.

    pre-training, retrieval  [{"image": "val2014/x.jpg", "caption": "a cat" | ["a cat", ..], "image_id": ..}, ..]
    VQA                      [{"image": .., "question": .., "question_id": 1, "answer": ["yes", ..] | "yes",
                               "dataset": "vqa" | "vg"}, ..]

Rows of one image are joined where they hold captions; a question is a sample of its own. Photos of COCO are known by
their file names (vlp/data/photo_ids.py), the files' own image_id is not needed. Their pre-training lists have paths of
the machine that they were made on: see `prefixes`. github.com/salesforce/ALBEF and BLIP, dataset/*.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.data.answers import read_answers
from vlp.data.base import SPLITS, DataModule, hold_out
from vlp.data.files import clean_captions, first_five, read_json, with_gzip
from vlp.data.photo_ids import photo_of_file
from vlp.structures import Sample


class FlatJSON(DataModule):
    """files: the list, or several, of each split under root; null = none.  images: the folder of the image paths under
    root, or one for each value of the rows' "dataset".  prefixes: what paths begin with → what stands for it below
    that folder.  held_out: how many training images form val.

    answer_weights: of all answers of a question together, by the rows' "dataset"; 1 where none is given.
    answer_vocabulary: a label map under root; null = no classification of answers.
    """

    def __init__(
        self,
        *,
        files: Mapping[str, str | Sequence[str] | None],
        images: str | Mapping[str, str] = ".",
        prefixes: Mapping[str, str] | None = None,
        held_out: int = 0,
        answer_weights: Mapping[str, int | float] | None = None,
        answer_vocabulary: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.files: dict[str, list[str]] = {}
        for split in SPLITS:
            names = files.get(split) or []
            self.files[split] = [names] if isinstance(names, str) else list(names)
        if held_out and self.files["val"]:
            raise ValueError("data.held_out is for data without a val file: set it to 0, or data.files.val=null")
        self.images, self.prefixes, self.held_out = images, dict(prefixes or {}), held_out
        self.answer_weights, self.answer_vocabulary = dict(answer_weights or {}), answer_vocabulary
        self._read: dict[str, list[Sample]] = {}

    def samples(self, split: str) -> list[Sample]:
        if self.answer_vocabulary is not None:
            self.answer_names = read_answers(self.root / self.answer_vocabulary)
        source = "train" if self.held_out and split == "val" else split
        if source not in self._read:
            self._read[source] = self._from(source)
            self._check_apart(source)
        samples = self._read[source]
        return (
            hold_out(samples, self.held_out, split, name=self.name) if self.held_out and source == "train" else samples
        )

    def _check_apart(self, split: str) -> None:
        own = {sample.image for sample in self._read[split]}
        for other, samples in self._read.items():
            both = own & {sample.image for sample in samples}
            if other != split and both:
                raise ValueError(
                    f"{self.name}: {len(both)} images are in {other} and in {split}: {first_five(sorted(both))}"
                )

    def _from(self, split: str) -> list[Sample]:
        captions: dict[str, Sample] = {}  # by image
        questions: list[Sample] = []
        for name in self.files[split]:
            path = with_gzip(self.root / name)
            rows = read_json(path, what=f"the list of {self.name}")
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise ValueError(f"{path}: expected a list of objects")
            for number, row in enumerate(rows):
                place = f"{path}: [{number}]"
                if "question" in row:
                    questions.append(self._question(row, number, place=place))
                elif "caption" in row:
                    self._add_captions(captions, row, place=place, training=split == "train")
                else:
                    raise ValueError(f"{place}: neither caption nor question in it")
        if captions and questions:
            raise ValueError(f"{split} files of {self.name} hold captions and questions: make two data sources of them")
        if split != "train":
            counts = Counter(sample.sample for sample in questions)
            twice = [question for question, count in counts.items() if count > 1]
            if twice:
                raise ValueError(
                    f"{split} questions of {self.name}: question_ids that are not unique: {first_five(twice)}"
                )
        return questions or list(captions.values())

    def _image(self, row: dict[str, Any], *, place: str) -> tuple[str, Path]:
        """The path as the file tells it, prefix replaced, and where it lies."""
        path = row.get("image")
        if not isinstance(path, str):
            raise ValueError(f"{place}: no image in it")
        for told, meant in self.prefixes.items():
            if path.startswith(told):
                path = meant + path.removeprefix(told)
                break
        folder = self.images
        if not isinstance(folder, str):
            if row.get("dataset") not in folder:
                raise ValueError(
                    f"{place}: data.images has no folder for the dataset {row.get('dataset')!r}: {', '.join(folder)}"
                )
            folder = folder[row["dataset"]]
        if path.startswith("/"):
            raise ValueError(f"{place}: {path!r} is a path of another machine: map its beginning with data.prefixes")
        return path, self.inside(self.root / folder, path, place=place)

    def _add_captions(self, found: dict[str, Sample], row: dict[str, Any], *, place: str, training: bool) -> None:
        told = row["caption"]
        texts = clean_captions(told if isinstance(told, list) else [told], place=place, training=training)
        path, file = self._image(row, place=place)
        known = found.get(str(file))
        if known is not None:
            found[str(file)] = replace(known, captions=(*known.captions, *texts))
        elif texts:
            found[str(file)] = Sample(id=photo_of_file(path), sample=len(found), image=file, captions=texts)

    def _question(self, row: dict[str, Any], number: int, *, place: str) -> Sample:
        told = row.get("answer", [])
        answers = told if isinstance(told, list) else [told]
        question = row["question"]
        if not isinstance(question, str) or not question.strip() or not all(isinstance(a, str) for a in answers):
            raise ValueError(f"{place}: expected a text question and an answer that is a text or a list of texts")
        asked = row.get("question_id", number)
        if not isinstance(asked, int):
            raise ValueError(f"{place}: question_id must be a whole number, not {asked!r}")
        path, file = self._image(row, place=place)
        return Sample(
            id=photo_of_file(path),
            sample=asked,
            image=file,
            question=" ".join(question.split()),
            answers=tuple(answers),
            answer_weight=float(self.answer_weights.get(str(row.get("dataset")), 1.0)),
        )
