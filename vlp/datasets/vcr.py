"""Visual commonsense reasoning (VCR 1.0) in its official files: a question about a photo, four answers, four rationales.

    train.jsonl  val.jsonl  test.jsonl       (or .jsonl.gz) a row a question: {"img_fn", "metadata_fn", "annot_id", "objects",
                                             "question", "answer_choices", "answer_label", "rationale_choices",
                                             "rationale_label", ..}; test has no labels
    vcr1images/<img_fn>, <metadata_fn>       photos, each with a JSON {"boxes": [[left, top, right, bottom, score], ..],
                                             "segms", "names", "width", "height"} beside it

Texts are lists of words and of lists of objects' numbers: see vlp/datasets/common/tagged_texts.py. Every object that question,
answers or rationales name is marked in the picture, as MERLOT does (vlp/data/marks.py); polygons, scores and what tells of the
collection (`match_fold`, `*_orig`, `answer_likelihood`, ..) are not read. 212,923 train, 26,534 val and 25,263 test questions.
Zellers et al., "From Recognition to Cognition", CVPR 2019; visualcommonsense.com (a form; research only, no redistribution).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import parse_id, path_or_gzip, read_json, read_json_lines
from vlp.data.boxes import photo_size
from vlp.data.datamodule import DataModule
from vlp.data.image_ids import image_id_from_path
from vlp.data.issues import DataError, SkippedRecords
from vlp.data.marks import PALETTES, mark_colour
from vlp.datasets.common.photo_sizes import report_other_size
from vlp.datasets.common.splits import named_splits
from vlp.datasets.common.tagged_texts import mentioned_objects, write_text
from vlp.structures import Sample, Tag
from vlp.system.errors import UserError

CHOICES = 4
Row = dict[str, Any]


class VCRFiles(DataModule):
    """splits: the name of the file of each split, without .jsonl; null = there is none.  annotations: its path under root, with
    {split}.  images: the folder of photos and metadata.  people: classes of objects that have names and colours of their own;
    all others have the name of their class and one colour.  marks: whether what the texts mention is drawn into the picture.
    palette: the colours of marks, see `vlp.data.marks.PALETTES`.  regions: whether each token says which boxes it mentions, for a
    model that is given their features.  right_texts: whether each training question, with its right answer and rationale, is also
    the caption of its photo, for masked words (Chen et al., "UNITER", arXiv:1909.11740, §4: its second stage of pre-training).
    """

    def __init__(
        self,
        *,
        splits: Mapping[str, str | None],
        annotations: str = "{split}.jsonl",
        images: str = "vcr1images",
        people: Sequence[str] = ("person",),
        marks: bool = True,
        palette: str = "photos",
        regions: bool = False,
        right_texts: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if palette not in PALETTES:
            raise UserError(f"data.palette={palette!r}: choose {' or '.join(PALETTES)}")
        self.files = named_splits(splits, setting="data.splits")
        self.annotations, self.images = annotations, images
        self.regions, self.right_texts = regions, right_texts
        self.people, self.marks, self.palette = frozenset(people), marks, palette
        self._metadata = lru_cache(maxsize=1024)(self._read_metadata)  # questions of a photo follow each other

    def annotation_path(self, split: str) -> Path:
        """split: the name of its file."""
        return self.root / self.annotations.format(split=split)

    def annotation_id(self, split: str, sample: int) -> str:
        """As the files, and the leaderboard, name the question with this `Sample.sample`."""
        return f"{self.files[split]}-{sample}"

    def samples(self, split: str) -> list[Sample]:
        name = self.files[split]
        if name is None:
            return []
        path = path_or_gzip(self.annotation_path(name))
        samples: list[Sample] = []
        rows = read_json_lines(path, description=f"the {split} questions of {self.name}", faults=self.faults)
        with SkippedRecords(self.faults, path) as past_the_end:
            for location, row in rows:
                with self.faults.catch_errors():
                    samples.append(self._sample(row, name, location, past_the_end, training=split == "train"))
        return self.faults.drop_duplicates(
            samples, lambda sample: sample.sample, kind="duplicate id", message=f"{path}: annot_id given twice"
        )

    def train_captions_of(self, sample: Sample, metadata: Path) -> tuple[str, ...]:
        """The captions of a training question's photo.  metadata: the file beside the photo."""
        if not self.right_texts or sample.label is None or sample.rationale_label is None:
            return ()
        right = (sample.question or "", sample.choices[sample.label], sample.rationales[sample.rationale_label])
        return (" ".join(right),)

    def _sample(self, row: Row, split: str, location: str, past_the_end: SkippedRecords, *, training: bool) -> Sample:
        """split: the name of its file."""
        objects = _objects(row, location)
        texts = [
            _tokens(row, "question", location),
            *_choices(row, "answer", location),
            *_choices(row, "rationale", location),
        ]
        written, tags = [], list[Tag]()
        try:
            for number, tokens in enumerate(texts):
                text, found = write_text(tokens, objects, self.people, text=number)
                written.append(text)
                tags += found
            named = mentioned_objects(texts, objects, self.people)
        except DataError as error:
            raise DataError(error.kind, f"{location}: {error}") from error
        if not all(written):
            raise DataError(
                "empty text", f"{location}: text {written.index('')} of question, answers and rationales is empty"
            )
        if not all(tag.boxes for tag in tags):
            past_the_end.add("tag of no object", location)
        image = self.resolve_path(self.root / self.images, row.get("img_fn"), location=location)
        metadata = self.resolve_path(self.root / self.images, row.get("metadata_fn"), location=location)
        marks = named if self.marks else ()
        sample = Sample(
            id=image_id_from_path(str(row["img_fn"])),
            sample=_annotation_number(row.get("annot_id"), split, location),
            image=image,
            question=written[0],
            choices=tuple(written[1 : 1 + CHOICES]),
            label=_label(row, "answer", location),
            rationales=tuple(written[1 + CHOICES :]),
            rationale_label=_label(row, "rationale", location),
            question_type=_optional_text(row, "question_type", location),
            tags=tuple(tags),
            boxes=self._boxes(metadata, image, len(objects), location),
            marks=marks,
            mark_colours=tuple(
                mark_colour(number, person=objects[number] in self.people, palette=self.palette) for number in marks
            ),
            as_stored=True,
        )
        return replace(sample, captions=self.train_captions_of(sample, metadata)) if training else sample

    def _boxes(self, metadata: Path, image: Path, objects: int, location: str) -> tuple[tuple[float, ...], ...]:
        boxes = self._metadata(metadata, image)
        if len(boxes) != objects:
            message = f"{location}: {objects} objects, and {metadata} has {len(boxes)} boxes: one is needed for each"
            raise DataError("other number of boxes", message)
        return boxes

    def _read_metadata(self, path: Path, image: Path) -> tuple[tuple[float, ...], ...]:
        """The corners of all boxes."""
        content = read_json(path_or_gzip(path), description=f"the boxes of {image.name}")
        boxes = content.get("boxes") if isinstance(content, dict) else None
        if not isinstance(boxes, list):
            raise DataError("missing key", f"{path}: lacks boxes [[left, top, right, bottom, score], …]")
        report_other_size(image, photo_size(content), faults=self.faults)
        return tuple(_corners(box, f"{path}: boxes[{number}]") for number, box in enumerate(boxes))


def _corners(box: object, location: str) -> tuple[float, ...]:
    """Left, top, right and bottom; a score may follow."""
    numbers: list[Any] = box if isinstance(box, list) and len(box) in (4, 5) else [None]
    if not all(isinstance(edge, (int, float)) and math.isfinite(edge) for edge in numbers):
        raise DataError(
            "box is not four numbers", f"{location}: {str(box)[:80]} is not left, top, right, bottom and a score"
        )
    return tuple(float(edge) for edge in numbers[:4])


def _objects(row: Row, location: str) -> list[str]:
    objects = row.get("objects")
    if not isinstance(objects, list) or not all(isinstance(name, str) for name in objects):
        raise DataError("missing key", f"{location}: objects must be a list of the classes of all boxes")
    return objects


def _tokens(row: Row, key: str, location: str) -> list[Any]:
    tokens = row.get(key)
    if not isinstance(tokens, list):
        raise DataError("missing key", f"{location}: {key} must be a list of words and of lists of objects' numbers")
    return tokens


def _choices(row: Row, kind: str, location: str) -> list[list[Any]]:
    choices = _tokens(row, f"{kind}_choices", location)
    if len(choices) != CHOICES or not all(isinstance(tokens, list) for tokens in choices):
        raise DataError(
            "not four choices", f"{location}: {kind}_choices must be {CHOICES} lists of words, not {len(choices)}"
        )
    return choices


def _label(row: Row, kind: str, location: str) -> int | None:
    """None where there is none, as in test."""
    label = row.get(f"{kind}_label")
    if label is None:
        return None
    if isinstance(label, bool) or label not in range(CHOICES):
        raise DataError(
            "unknown label", f"{location}: {kind}_label must be from 0 to {CHOICES - 1}, not {str(label)[:40]}"
        )
    return int(label)


def _annotation_number(name: object, split: str, location: str) -> int:
    """Of "val-17"; the leaderboard names questions so."""
    prefix, _, number = str(name).rpartition("-")
    if prefix != split:
        raise DataError("unknown id", f'{location}: annot_id must be "{split}-" and a number, not {str(name)[:40]!r}')
    return parse_id(number, id_name="the number of annot_id", location=location)


def _optional_text(row: Row, key: str, location: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError("unexpected structure", f"{location}: {key} must be a text")
    return value
