"""VQA v2 in its official files: one sample a question, with the answers of ten people.

    vqa/v2_OpenEnded_mscoco_{split}_questions.json    {"questions": [{"question_id", "image_id", "question"}, ..]}
    vqa/v2_mscoco_{split}_annotations.json            {"annotations": [{"question_id", "multiple_choice_answer",
                                                       "question_type", "answer_type", "answers": [{"answer"}, ..]}, ..]}
    {split}/COCO_{split}_{image_id:012d}.jpg

train2014 443,757, val2014 214,354, test-dev2015 107,394, test2015 447,793 questions; those of test have no public answers.
Goyal et al., "Making the V in VQA Matter", arXiv 1612.00837; visualqa.org.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import is_id, objects_under_key, path_or_gzip, read_json
from vlp.data.answers import answer_text, frequent_answers, normalise_answer, read_answer_vocabulary
from vlp.data.datamodule import DataModule
from vlp.data.issues import DataError, SkippedRecords, join_first_five
from vlp.datasets.common.splits import hold_out, named_splits
from vlp.structures import Sample
from vlp.system.errors import UserError


class VQAv2(DataModule):
    """splits: the official split, or several, that each split is read from; null = none.  questions, annotations,
    images: file names under root with {split} and, for images, {id}; JSON may have .gz added. Images of test-dev2015 are
    those of test2015.  held_out: how many training images, with all their questions, form val.

    The answer vocabulary is the label map answer_vocabulary, or by ViLT's rule (vlp/data/answers.py) all answers with
    min_answer_count training questions, those held out included; null = none. Questions without an answer in it have
    scores 0; in_vocabulary_only leaves them out of training, as ViLT does.
    """

    def __init__(
        self,
        *,
        splits: Mapping[str, str | Sequence[str] | None],
        questions: str = "vqa/v2_OpenEnded_mscoco_{split}_questions.json",
        annotations: str = "vqa/v2_mscoco_{split}_annotations.json",
        images: str = "{split}/COCO_{split}_{id:012d}.jpg",
        held_out: int = 0,
        answer_vocabulary: str | None = None,
        min_answer_count: int | None = 9,
        in_vocabulary_only: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.official: dict[str, list[str]] = {}
        for split, names in named_splits(splits, setting="data.splits").items():
            self.official[split] = [names] if isinstance(names, str) else list(names or [])
        if held_out and self.official["val"]:
            raise UserError("data.held_out is for data without a val split: set it to 0, or data.splits.val=null")
        self.questions, self.annotations, self.images = questions, annotations, images
        self.held_out, self.answer_vocabulary = held_out, answer_vocabulary
        self.min_answer_count, self.in_vocabulary_only = min_answer_count, in_vocabulary_only
        self._read: dict[str, list[Sample]] = {}  # by our split
        self._training_answers: list[str] = []
        self._vocabulary_sought = False

    def samples(self, split: str) -> list[Sample]:
        source = "train" if self.held_out and split == "val" else split
        samples = self._from(source)
        self._find_vocabulary()
        if self.held_out and source == "train":
            samples = hold_out(samples, self.held_out, split, name=self.name, faults=self.faults)
        if self.in_vocabulary_only and split == "train":
            if self.answer_vocabulary is None and self.min_answer_count is None:
                raise UserError("data.in_vocabulary_only=true needs data.answer_vocabulary or data.min_answer_count")
            known = set(self.answer_names or ())
            samples = [sample for sample in samples if any(normalise_answer(a) in known for a in sample.answers)]
        return samples

    def _find_vocabulary(self) -> None:
        if self._vocabulary_sought:
            return
        if self.answer_vocabulary is not None:
            with self.faults.catch_errors():
                self.answer_names = read_answer_vocabulary(self.root / self.answer_vocabulary)
        elif self.min_answer_count is not None:
            files = [self._file(self.annotations, official) for official in self.official["train"]]
            if files and all(file.exists() for file in files):  # test data alone have scores only with a label map
                self._from("train")
                names = frequent_answers(self._training_answers, at_least=self.min_answer_count)
                if not names:
                    message = f"no answer of {self.name} is given {self.min_answer_count} times"
                    self.faults.error("no frequent answer", f"{message}: set data.min_answer_count lower")
                self.answer_names = names or None
        self._vocabulary_sought = True

    def _file(self, template: str, official: str) -> Path:
        return path_or_gzip(self.root / template.format(split=official))

    def _from(self, split: str) -> list[Sample]:
        if split not in self._read:
            every = [sample for official in self.official[split] for sample in self._official(official, split)]
            message, kind = (
                f"{split} questions of {self.name}: question_ids that are not unique",
                "duplicate question id",
            )
            self._read[split] = self.faults.drop_duplicates(
                every, lambda sample: sample.sample, kind=kind, message=message
            )
        return self._read[split]

    def _official(self, official: str, split: str) -> list[Sample]:
        path = self._file(self.questions, official)
        questions: list[dict[str, Any]] = []
        annotated: dict[int, dict[str, Any]] | None = {}
        with self.faults.catch_errors():
            questions = objects_under_key(
                read_json(path, description=f"the questions of {self.name}"), "questions", location=path
            )
            asked = (record.get("question_id") for record in questions)
            annotated = self._annotated(official, split, {key for key in asked if isinstance(key, int)})
        found = []
        with SkippedRecords(self.faults, path) as left_out:
            for number, record in enumerate(questions):
                question = record.get("question_id")
                if annotated is not None and isinstance(question, int) and question not in annotated:
                    continue  # reported with all others that lack answers
                with self.faults.catch_errors():
                    place = f"{path}: questions[{number}]"
                    sample = self._sample(record, annotated, place=place, official=official)
                    if sample.question:
                        found.append(sample)
                    elif split == "train":
                        left_out.add("empty question", place)
                    else:
                        message = f"{place}: empty question in evaluation data, which would change the metric"
                        raise DataError("empty question", message)
        return found

    def _annotated(self, official: str, split: str, known: set[int]) -> dict[int, dict[str, Any]] | None:
        """The annotations by question; None where those of a test split are not public."""
        path = self._file(self.annotations, official)
        if split == "test" and not path.exists():
            message = f"{self.name}: there is no {path}, so test questions can be answered, not measured"
            self.faults.warn("no public answers", message, count=len(known))
            return None
        listed = objects_under_key(
            read_json(path, description=f"the answers of {self.name}"), "annotations", location=path
        )
        annotated: dict[int, dict[str, Any]] = {}
        twice = 0
        for record in listed:
            question = record.get("question_id")
            twice += not isinstance(question, int) or annotated.setdefault(question, record) is not record
        if twice:
            message = f"{path}: annotations whose question_id is missing or not unique"
            self.faults.error("duplicate annotation id", message, count=twice)
        lacking = [question for question in known if question not in annotated]
        if lacking:
            message = f"{path}: {len(lacking)} questions have no answers there: {join_first_five(lacking)}"
            self.faults.error("question without answers", message, count=len(lacking))
        unknown = [question for question in annotated if question not in known]
        if unknown:
            message = f"{path}: answers to {len(unknown)} unknown questions are left out: {join_first_five(unknown)}"
            self.faults.warn("annotation of an unknown question", message, count=len(unknown))
        if split == "train" and self.answer_vocabulary is None and self.min_answer_count is not None:
            chosen = [answer_text(record.get("multiple_choice_answer")) for record in listed]
            without_text = chosen.count(None)
            if without_text:
                message = f"{path}: annotations without multiple_choice_answer; give data.answer_vocabulary"
                self.faults.error("missing key", message, count=without_text)
            self._training_answers += [answer for answer in chosen if answer is not None]
        return annotated

    def _sample(
        self, record: dict[str, Any], annotated: dict[int, dict[str, Any]] | None, *, place: str, official: str
    ) -> Sample:
        question, image, text = (record.get(key) for key in ("question_id", "image_id", "question"))
        if not is_id(question) or not is_id(image) or not isinstance(text, str):
            message = f"{place}: expected whole numbers question_id and image_id, and a text question"
            raise DataError("missing key", message)
        file = self.images.format(split=official.replace("test-dev", "test"), id=image)
        annotation_record = {} if annotated is None else annotated[question]
        if annotation_record.get("image_id", image) != image:
            message = f"{place}: question {question} is about image {image}, its annotation about {annotation_record['image_id']!r}"
            raise DataError("annotation of another image", f"{message}; the two files are not of one release")
        listed = annotation_record.get("answers")
        listed = listed if isinstance(listed, list) else []
        answers = [answer_text(item.get("answer") if isinstance(item, dict) else None) for item in listed]
        if None in answers or (annotated is not None and not answers):
            message = f"{place}: the annotation of question {question} needs answers [{{answer: text}}, …]"
            raise DataError("question without answers", message)
        return Sample(
            id=image,
            sample=question,
            image=self.resolve_path(self.root, file, location=place),
            question=" ".join(text.split()),
            answers=tuple(answer for answer in answers if answer is not None),
            question_type=kind if isinstance(kind := annotation_record.get("question_type"), str) else None,
            answer_type=kind if isinstance(kind := annotation_record.get("answer_type"), str) else None,
        )
