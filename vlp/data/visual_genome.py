"""Visual Genome in its official files, v1.0 and v1.2: region phrases as captions, or its questions and answers.

    image_data.json           [{"image_id", "url": "…/VG_100K_2/1.jpg", "coco_id", "flickr_id"}, ..]
    region_descriptions.json  [{"id", "regions": [{"phrase", "region_id" (v1.0: "id"), "x", "y", "width", "height"}, ..]}, ..]
    question_answers.json     [{"id", "qas": [{"question", "answer", "qa_id"}, ..]}, ..]
    VG_100K/*.jpg             VG_100K_2/*.jpg

108,077 photos (v1.2), about half of them COCO's, with 5.4 million phrases and 1.7 million questions; no official split.
A phrase stands for the whole photo, as in ALBEF's pre-training; a question has one answer, which weighs 0.5 in ALBEF's.
Krishna et al., "Visual Genome", arXiv 1602.07332; homes.cs.washington.edu/~ranjay/visualgenome.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlp.data.answers import read_answers
from vlp.data.base import DataModule, hold_out
from vlp.data.files import clean_captions, existing, first_five, read_json
from vlp.data.photo_ids import genome_photo, listed_photos
from vlp.structures import Sample

FILES = {"regions": ("region_descriptions.json", "regions"), "questions": ("question_answers.json", "qas")}


class VisualGenome(DataModule):
    """content: "regions": a sample is a photo with its different phrases; "questions": a sample is a question.
    annotations, images: folders under root, of the JSON files and of VG_100K and VG_100K_2.  held_out: how many photos
    form val; there is no test split.

    exclude_coco, exclude_flickr: files under root that name photos to leave out, by COCO's and Flickr's numbers, since
    Visual Genome holds photos of COCO's val and test splits (see vlp/data/photo_ids.py).  answer_weight: of a question's
    answer in the loss.  answer_vocabulary: a label map under root; null = no classification of its answers.
    """

    def __init__(
        self,
        *,
        content: str = "regions",
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
            raise ValueError(f"data.content={content!r}: choose {' or '.join(FILES)}")
        self.content, self.annotations, self.images = content, annotations, images
        self.held_out, self.answer_weight, self.answer_vocabulary = held_out, answer_weight, answer_vocabulary
        self.exclude = {"coco_id": exclude_coco, "flickr_id": exclude_flickr}
        self._listed: list[Sample] | None = None

    def samples(self, split: str) -> list[Sample]:
        if split == "test" or (split == "val" and not self.held_out):
            return []
        return hold_out(self.listed(), self.held_out, split, name=self.name) if self.held_out else self.listed()

    def listed(self) -> list[Sample]:
        """All samples; read once."""
        if self._listed is None:
            if self.answer_vocabulary is not None:
                self.answer_names = read_answers(self.root / self.answer_vocabulary)
            self._listed = list(self._read())
        return self._listed

    def _read(self) -> Iterator[Sample]:
        photos, left_out = self._photos()
        file, key = FILES[self.content]
        path = self.root / self.annotations / file
        unknown: list[object] = []
        for number, record in enumerate(entries(path)):
            photo, place = numbered(record, "image_id", "id"), f"{path}: [{number}]"
            if photo in left_out:
                continue
            if photo is None or photo not in photos:
                unknown.append(photo)
                continue
            told = record.get(key)
            if not isinstance(told, list) or not all(isinstance(item, dict) for item in told):
                raise ValueError(f"{place}: expected a list of objects under {key!r}")
            yield from self._of_photo(photos[photo], told, place=place)
        if unknown:
            warnings.warn(
                f"{path}: annotations of {len(unknown)} unknown images are left out: {first_five(unknown)}",
                stacklevel=2,
            )

    def _photos(self) -> tuple[dict[int, Sample], set[int]]:
        """By image_id, a bare sample of each photo to use; and the image_ids of those that are excluded."""
        path = self.root / self.annotations / "image_data.json"
        folder = existing(self.root / self.images, what=f"the images of {self.name}")
        excluded = {key: listed_photos(self.root / file) for key, file in self.exclude.items() if file is not None}
        photos: dict[int, Sample] = {}
        left_out: set[int] = set()
        for number, record in enumerate(entries(path)):
            image, place = numbered(record, "image_id", "id"), f"{path}: [{number}]"
            if image is None or not isinstance(record.get("url"), str):
                raise ValueError(f"{place}: expected a whole number image_id and a url")
            if image in photos or image in left_out:
                raise ValueError(f"{path}: image_id {image} is listed more than once")
            if any(numbered(record, key) in numbers for key, numbers in excluded.items()):
                left_out.add(image)
                continue
            file = self.inside(folder, "/".join(record["url"].split("/")[-2:]), place=place)  # VG_100K_2/1.jpg
            photos[image] = Sample(id=genome_photo(image, numbered(record, "coco_id")), sample=image, image=file)
        return photos, left_out

    def _of_photo(self, photo: Sample, told: list[dict[str, Any]], *, place: str) -> Iterator[Sample]:
        if self.content == "regions":
            phrases = clean_captions((region.get("phrase") for region in told), place=place, training=True)
            if phrases:
                yield Sample(
                    id=photo.id, sample=photo.sample, image=photo.image, captions=tuple(dict.fromkeys(phrases))
                )
            return
        for pair in told:
            question, answer, number = pair.get("question"), pair.get("answer"), numbered(pair, "qa_id")
            if not isinstance(question, str) or not isinstance(answer, str) or number is None:
                raise ValueError(f"{place}: expected a whole number qa_id, and texts question and answer")
            question, answer = " ".join(question.split()), plain_answer(answer)
            if question and answer:
                yield Sample(
                    id=photo.id,
                    sample=number,
                    image=photo.image,
                    question=question,
                    answers=(answer,),
                    answer_weight=self.answer_weight,
                )


def plain_answer(answer: str) -> str:
    """As VQA v2 writes answers: "On the  table." → "on the table"."""
    return " ".join(answer.split()).removesuffix(".").lower()


def entries(path: Path) -> list[dict[str, Any]]:
    content = read_json(path, what="Visual Genome's file")
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ValueError(f"{path}: expected a list of objects")
    return content


def numbered(record: dict[str, Any], *keys: str) -> int | None:
    """The whole number under the first of the keys that is there: versions name them differently."""
    value = next((record[key] for key in keys if key in record), None)
    return int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else None
