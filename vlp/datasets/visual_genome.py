"""Visual Genome in its official files, v1.0 to v1.4: phrases about parts of its photos, or questions and answers.

    image_data.json           [{"image_id", "url": "…/VG_100K_2/1.jpg", "width", "height", "coco_id", "flickr_id"}, ..]
    region_descriptions.json  [{"id", "regions": [{"phrase", "region_id", "x", "y", "width", "height"}, ..]}, ..]
    question_answers.json     [{"id", "qas": [{"question", "answer", "qa_id"}, ..]}, ..]
    objects.json, attributes.json, relationships.json      see vlp/datasets/common/visual_genome_phrases.py
    VG_100K/*.jpg             VG_100K_2/*.jpg

108,077 photos (v1.2), about half of them COCO's, with 5.4 million phrases and 1.7 million questions; no official split.
A phrase stands for the whole photo, as in ALBEF's pre-training, or for its region; a question has one answer, which
weighs 0.5 in ALBEF's. Of v1.2's 5,408,689 regions 5,654 begin outside their photos: they are cut at its edge, and left
out where nothing is left. Krishna et al., arXiv 1602.07332; homes.cs.washington.edu/~ranjay/visualgenome.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import clean_captions, objects_in_list, read_json, require_path
from vlp.data.answers import answer_text, read_answer_vocabulary
from vlp.data.boxes import BOX_FAULTS, Corners, Size, clip_box, photo_size
from vlp.data.datamodule import DataModule
from vlp.data.image_ids import read_image_id_list, visual_genome_id
from vlp.data.issues import DataError, SkippedRecords, join_first_five
from vlp.datasets.common.splits import hold_out
from vlp.datasets.common.visual_genome_phrases import PHRASES, Phrases, annotation_number, plain_answer
from vlp.structures import Sample
from vlp.system.errors import UserError

FILES = {
    "regions": ("region_descriptions.json", "regions"),
    "questions": ("question_answers.json", "qas"),
    **{content: (f"{content}.json", content) for content in ("objects", "attributes", "relationships")},
}


@dataclass(frozen=True)
class _Photo:
    sample: Sample  # without captions
    size: Size | None


class VisualGenome(DataModule):
    """content: "questions": a sample is a question; "regions", "objects", "attributes", "relationships": a sample is a
    photo with its different phrases of that kind, and with `boxes` the box of each; with `crop` it is a region.
    annotations, images: folders under root, of the JSON files and of VG_100K and VG_100K_2.  held_out: how many photos
    form val; there is no test split.

    exclude_coco, exclude_flickr: files under root that name photos to leave out, by COCO's and Flickr's numbers, since
    Visual Genome holds photos of COCO's val and test splits (see vlp/data/image_ids.py).  answer_weight: of a question's
    answer in the loss.  answer_vocabulary: a label map under root; null = no classification of its answers.
    """

    def __init__(
        self,
        *,
        content: str = "regions",
        crop: bool = False,
        boxes: bool = False,
        annotations: str = ".",
        images: str = ".",
        held_out: int = 0,
        exclude_coco: str | None = None,
        exclude_flickr: str | None = None,
        answer_weight: float = 0.5,
        answer_vocabulary: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if content not in FILES:
            raise UserError(f"data.content={content!r}: choose {', '.join(FILES)}")
        if content == "questions" and (crop or boxes):
            raise UserError("data.content=questions is about whole photos: set data.crop=false and data.boxes=false")
        self.content, self.crop, self.boxes = content, crop, boxes
        self.annotations, self.images = annotations, images
        self.held_out, self.answer_weight, self.answer_vocabulary = held_out, answer_weight, answer_vocabulary
        self.exclude = {"coco_id": exclude_coco, "flickr_id": exclude_flickr}
        self._listed: list[Sample] | None = None

    def samples(self, split: str) -> list[Sample]:
        if split == "test" or (split == "val" and not self.held_out):
            return []
        samples = self.all_samples()
        if not self.held_out:
            return samples
        return hold_out(samples, self.held_out, split, name=self.name, faults=self.faults)

    def all_samples(self) -> list[Sample]:
        """All samples; read once."""
        if self._listed is None:
            if self.answer_vocabulary is not None:
                with self.faults.catch_errors():
                    self.answer_names = read_answer_vocabulary(self.root / self.answer_vocabulary)
            file, key = FILES[self.content]
            path = self.root / self.annotations / file
            with SkippedRecords(self.faults, path) as left_out:
                self._listed = list(self._read(path, key, left_out))
            if self.crop or self.content == "questions":
                self._listed = self._distinct(self._listed, path)
        return self._listed

    def _distinct(self, samples: list[Sample], path: Path) -> list[Sample]:
        if self.content in ("objects", "attributes"):  # an object may be there with several attributes
            return samples
        message = f"{path}: ids that are not unique"
        return self.faults.drop_duplicates(samples, lambda s: s.sample, kind="duplicate annotation id", message=message)

    def _read(self, path: Path, key: str, left_out: SkippedRecords) -> Iterator[Sample]:
        photos, excluded = self._photos()
        entries: list[dict[str, Any]] = []
        with self.faults.catch_errors():
            entries = objects_in_list(read_json(path, description="Visual Genome's file"), location=path)
        unknown: list[object] = []
        seen: set[int] = set()
        for number, record in enumerate(entries):
            image, place = annotation_number(record, "image_id", "id"), f"{path}: [{number}]"
            if image in excluded:
                continue
            if image is None or image not in photos:
                unknown.append(image)
                continue
            found: list[Sample] = []
            with self.faults.catch_errors():
                if image in seen:
                    raise DataError("duplicate image id", f"{place}: image_id {image} is listed more than once")
                seen.add(image)
                records = record.get(key)
                if not isinstance(records, list) or not all(isinstance(item, dict) for item in records):
                    message = f"{place}: expected a list of objects under {key!r}"
                    raise DataError("unexpected structure", message)
                if not records:
                    left_out.add(f"image without {self.content}", place)
                of_photo = self._questions if self.content == "questions" else self.region_samples
                found = list(of_photo(photos[image], records, left_out, place=f"{place}.{key}"))
            yield from found
        if unknown:
            message = f"{path}: annotations of {len(unknown)} unknown images are left out: {join_first_five(unknown)}"
            self.faults.warn("annotation of an unknown image", message, count=len(unknown))

    def _photos(self) -> tuple[dict[int, _Photo], set[int]]:
        """Those to use, by image_id; and the image_ids of those that are excluded."""
        path, folder = self.root / self.annotations / "image_data.json", self.root / self.images
        photos: dict[int, _Photo] = {}
        left_out: set[int] = set()
        numbers: dict[str, set[int]] = {}
        entries: list[dict[str, Any]] = []
        with self.faults.catch_errors():
            require_path(folder, description=f"the images of {self.name}")
        with self.faults.catch_errors():
            numbers = {
                key: read_image_id_list(self.root / file) for key, file in self.exclude.items() if file is not None
            }
        with self.faults.catch_errors():
            entries = objects_in_list(read_json(path, description="Visual Genome's file"), location=path)
        for number, record in enumerate(entries):
            with self.faults.catch_errors():
                image, place = annotation_number(record, "image_id", "id"), f"{path}: [{number}]"
                if image is None or not isinstance(record.get("url"), str):
                    raise DataError("missing key", f"{place}: expected a whole number image_id and a url")
                if image in photos or image in left_out:
                    raise DataError("duplicate image id", f"{path}: image_id {image} is listed more than once")
                if any(annotation_number(record, key) in excluded for key, excluded in numbers.items()):
                    left_out.add(image)
                    continue
                # …/VG_100K_2/1.jpg
                file = self.resolve_path(folder, "/".join(record["url"].split("/")[-2:]), location=place)
                known_as = visual_genome_id(
                    image, annotation_number(record, "coco_id"), annotation_number(record, "flickr_id")
                )
                photos[image] = _Photo(Sample(id=known_as, sample=image, image=file), photo_size(record))
        return photos, left_out

    def region_samples(
        self, photo: _Photo, records: list[dict[str, Any]], left_out: SkippedRecords, *, place: str
    ) -> Iterable[Sample]:
        crops: list[Sample] = []
        boxes: dict[str, Corners | None] = {}  # of the photo's different phrases, the first of each
        for number, item in enumerate(records):
            where = f"{place}[{number}]"
            with self.faults.catch_errors():
                phrases, box = self._phrases_and_box(item, photo, left_out, place=where)
                texts = clean_captions(phrases.texts, location=where, training=True, skipped=left_out)
                if not texts:
                    continue
                if (self.crop or self.boxes) and (photo.size is None or box is None):
                    message = f"{where} needs a box, and its photo a width and a height"
                    raise DataError("missing key", message)
                for text in texts:
                    boxes.setdefault(text, box)
                if self.crop:
                    if phrases.number is None:
                        raise DataError("missing key", f"{where} needs a whole number as its id")
                    sample = replace(
                        photo.sample, sample=phrases.number, captions=tuple(dict.fromkeys(texts)), crop=box
                    )
                    crops.append(sample)
        if self.crop or not boxes:
            return crops
        kept = tuple(box for box in boxes.values() if box is not None) if self.boxes else None
        return [replace(photo.sample, captions=tuple(boxes), boxes=kept)]

    def _phrases_and_box(
        self, item: dict[str, Any], photo: _Photo, left_out: SkippedRecords, *, place: str
    ) -> tuple[Phrases, Corners | None]:
        """The phrases of an annotation, and its box within the photo; without texts where the box is faulty."""
        try:
            phrases = PHRASES[self.content](item)
            box = phrases.box if phrases.box is None or photo.size is None else clip_box(phrases.box, photo.size)
            return phrases, box
        except DataError as error:
            if error.kind not in BOX_FAULTS:
                raise DataError(error.kind, f"{place}: {error}") from error
            left_out.add(error.kind, place)
            return Phrases(texts=(), number=None, box=None), None

    def _questions(
        self, photo: _Photo, records: list[dict[str, Any]], left_out: SkippedRecords, *, place: str
    ) -> Iterator[Sample]:
        for number, pair in enumerate(records):
            question, answer, asked = (
                pair.get("question"),
                answer_text(pair.get("answer")),
                annotation_number(pair, "qa_id"),
            )
            where = f"{place}[{number}]"
            found: Sample | None = None
            with self.faults.catch_errors():
                if not isinstance(question, str) or answer is None or asked is None:
                    message = f"{where}: expected a whole number qa_id, and texts question and answer"
                    raise DataError("missing key", message)
                question, answer = " ".join(question.split()), plain_answer(answer)
                if not question or not answer:
                    left_out.add("empty question" if not question else "empty answer", where)
                    continue
                found = replace(
                    photo.sample,
                    sample=asked,
                    question=question,
                    answers=(answer,),
                    answer_weight=self.answer_weight,
                )
            if found is not None:
                yield found
