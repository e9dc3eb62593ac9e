"""The flat JSON lists of ALBEF, BLIP and LAVIS, for pre-training, retrieval, VQA and visual entailment.

    pre-training, retrieval  [{"image": "val2014/x.jpg", "caption": "a cat" | ["a cat", ..], "image_id": ..}, ..]
    VQA                      [{"image": .., "question": .., "question_id": 1, "answer": ["yes", ..] | "yes",
                               "dataset": "vqa" | "vg"}, ..]
    SNLI-VE                  [{"image": .., "sentence": .., "label": "entailment" | "neutral" | "contradiction"}, ..]

Other shapes of rows are in common/salesforce_rows.py. Rows of one image are joined where they hold captions; a question is a
sample of its own. Photos of COCO and Flickr are known by their file names (vlp/data/image_ids.py); the files' own
image_id is not needed. Their pre-training lists have paths of the machine that they were made on: see `prefixes`.
github.com/salesforce/ALBEF and BLIP, dataset/*.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import clean_captions, parse_id, strip_root
from vlp.data.answers import read_answer_vocabulary
from vlp.data.datamodule import DataModule
from vlp.data.image_ids import flickr_image_id, image_id_from_path, read_shared_genome_ids
from vlp.data.issues import DataError, SkippedRecords
from vlp.datasets.common.json_rows import json_rows
from vlp.datasets.common.salesforce_rows import (
    ENTAILMENT,
    is_entailment,
    is_false,
    row_captions,
    row_choices,
    row_entailment,
    row_image,
    row_question,
)
from vlp.datasets.common.splits import drop_overlap, named_splits, samples_of_split
from vlp.structures import Sample
from vlp.system.errors import UserError


class SalesforceJson(DataModule):
    """files: the list, or several, of each split under root; null = none.  images: the folder of the image paths under
    root, or one for each value of the rows' "dataset".  prefixes: what paths begin with → what stands for it below
    that folder.  held_out: how many training images form val.

    answer_weights: of all answers of a question together, by the rows' "dataset"; 1 where none is given.
    answer_vocabulary: a label map under root; null = no classification of answers.  image_data: Visual Genome's file of that
    name under root, by which its photos are known to be COCO's or Flickr's.
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
        image_data: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.files: dict[str, list[str]] = {}
        for split, names in named_splits(files, setting="data.files").items():
            self.files[split] = [names] if isinstance(names, str) else list(names or [])
        if held_out and self.files["val"]:
            raise UserError("data.held_out is for data without a val file: set it to 0, or data.files.val=null")
        self.images, self.prefixes, self.held_out = images, dict(prefixes or {}), held_out
        self.answer_weights, self.answer_vocabulary = dict(answer_weights or {}), answer_vocabulary
        self.image_data = image_data
        self._known_as: dict[int, int] | None = None
        self._read: dict[str, list[Sample]] = {}
        self._placed: dict[tuple[str, str], tuple[str, Path]] = {}  # most images are in several rows

    def samples(self, split: str) -> list[Sample]:
        if self.answer_vocabulary is not None and self.answer_names is None:
            with self.faults.catch_errors():
                self.answer_names = read_answer_vocabulary(self.root / self.answer_vocabulary)
        return samples_of_split(split, self.held_out, self._read, self._of_split, name=self.name, faults=self.faults)

    def _of_split(self, split: str) -> list[Sample]:
        samples = self._from(split)
        self._placed.clear()
        return drop_overlap(samples, split, self._read, name=self.name, faults=self.faults)

    def _photo(self, path: str) -> int:
        """The id of a photo, which is the same wherever it is listed."""
        if self._known_as is None:
            self._known_as = {} if self.image_data is None else read_shared_genome_ids(self.root / self.image_data)
        number = image_id_from_path(path)
        return self._known_as.get(number, number)

    def _from(self, split: str) -> list[Sample]:
        captions: dict[Path, tuple[int, list[str]]] = {}  # by image, with the photo's number
        questions: list[Sample] = []
        read = 0  # rows of this split, which number the questions that have no id
        for name in self.files[split]:
            with self.faults.catch_errors(), SkippedRecords(self.faults, self.root / name) as left_out:
                rows = json_rows(self.root / name, description=f"the list of {self.name}", faults=self.faults)
                for number, (place, row) in enumerate(rows, start=read):
                    read = number + 1
                    with self.faults.catch_errors():
                        if "question" in row:
                            questions.append(self._question(row, number, place=place))
                        elif is_entailment(row):
                            questions.append(self._entailment(row, number, place=place))
                        else:
                            self._add_captions(captions, row, left_out, place=place, training=split == "train")
        if captions and questions:
            message = f"{split} files of {self.name} hold captions and questions: make two data sources of them"
            self.faults.error("captions and questions mixed", message)
        samples = [
            Sample(id=photo, sample=position, image=image, captions=tuple(texts))
            for position, (image, (photo, texts)) in enumerate(captions.items())
        ]
        return samples + (questions if split == "train" else self._distinct(questions, split))

    def _distinct(self, questions: list[Sample], split: str) -> list[Sample]:
        message = f"{split} questions of {self.name}: question_ids that are not unique"
        return self.faults.drop_duplicates(questions, lambda s: s.sample, kind="duplicate question id", message=message)

    def _image(self, row: dict[str, Any], *, place: str) -> tuple[str, Path]:
        """The path as the file tells it, prefix replaced, and where it lies."""
        listed_path, data_set = row_image(row, place=place), str(row.get("dataset"))
        if (listed_path, data_set) not in self._placed:
            self._placed[listed_path, data_set] = self._place_image(listed_path, row, place=place)
        return self._placed[listed_path, data_set]

    def _place_image(self, path: str, row: dict[str, Any], *, place: str) -> tuple[str, Path]:
        for written, meant in self.prefixes.items():
            if path.startswith(written):
                path = meant + path.removeprefix(written)
                break
        folder = self.images
        if not isinstance(folder, str):
            if row.get("dataset") not in list(folder):
                known = ", ".join(folder)
                message = f"{place}: data.images has no folder for the dataset {row.get('dataset')!r}: {known}"
                raise DataError("unknown data set", message)
            folder = folder[row["dataset"]]
        if path.startswith("/") and strip_root(self.root, path) is None:
            message = f"{place}: {path!r} is a path of another machine: map its beginning with data.prefixes"
            raise DataError("path outside the root", message)
        return path, self.resolve_path(self.root / folder, path, location=place)

    def _add_captions(
        self,
        found: dict[Path, tuple[int, list[str]]],
        row: dict[str, Any],
        left_out: SkippedRecords,
        *,
        place: str,
        training: bool,
    ) -> None:
        written = row_captions(row)
        if written is None:
            raise DataError("neither caption nor question", f"{place}: neither caption nor question in it")
        if is_false(row):
            return left_out.add("caption false of its image", place)
        texts = clean_captions(written, location=place, training=training, skipped=left_out)
        path, file = self._image(row, place=place)
        if file in found:
            found[file][1].extend(texts)
        elif texts or (not written and not left_out.skip_without_caption(place, training=training)):
            found[file] = self._photo(path), list(texts)

    def _entailment(self, row: dict[str, Any], number: int, *, place: str) -> Sample:
        self.class_names = ENTAILMENT
        sentence, label = row_entailment(row, place=place)
        path, file = self._image(row, place=place)  # all photos are Flickr30k's
        return Sample(id=flickr_image_id(path), sample=number, image=file, question=sentence, label=label)

    def _question(self, row: dict[str, Any], number: int, *, place: str) -> Sample:
        question, answers = row_question(row, place=place)
        choices, right = row_choices(row, place=place)
        # A-OKVQA's ids are letters
        asked = (
            number
            if "choices" in row
            else parse_id(row.get("question_id", number), id_name="question_id", location=place)
        )
        path, file = self._image(row, place=place)
        return Sample(
            id=self._photo(path),
            sample=asked,
            image=file,
            question=question,
            answers=answers,
            answer_weight=float(self.answer_weights.get(str(row.get("dataset")), 1.0)),
            choices=choices,
            label=right,
        )
