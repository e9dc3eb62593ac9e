"""A-OKVQA in its official files: one sample a question, with ten people's direct answers and four choices.

    aokvqa/aokvqa_v1p0_{split}.json    [{"question_id": "22MexNkBPpdZGX6sxbxVBH", "image_id": 299207, "question",
                                         "choices": [4 texts], "correct_choice_idx": 0, "direct_answers": [10 texts],
                                         "difficult_direct_answer": false, "rationales": [3 texts]}, ..]
    {split}2017/{image_id:012d}.jpg

17,056 train, 1,145 val and 6,702 test questions; those of test have neither answers nor the right choice. Schwenk et al.,
arXiv:2206.01718; github.com/allenai/aokvqa, evaluation/eval_predictions.py for its metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from vlp.data.annotation_files import is_id, objects_in_list, path_or_gzip, read_json
from vlp.data.answers import frequent_answers, normalise_answer, read_answer_vocabulary
from vlp.data.datamodule import DataModule
from vlp.data.issues import DataError
from vlp.datasets.common.splits import named_splits
from vlp.structures import Sample


class Aokvqa(DataModule):
    """splits: the official split of each split; null = none.  annotations, images: file names under root with {split} and, for
    images, {id}; JSON may have .gz added.
    answer_vocabulary: a label map under root; null = the direct answers that min_answer_count training questions give, null = none.
    Evaluation leaves out the direct answers of questions that are marked difficult to answer directly, as the official one does.
    """

    def __init__(
        self,
        *,
        splits: Mapping[str, str | None],
        annotations: str = "aokvqa/aokvqa_v1p0_{split}.json",
        images: str = "{split}2017/{id:012d}.jpg",
        answer_vocabulary: str | None = None,
        min_answer_count: int | None = 3,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.official = named_splits(splits, setting="data.splits")
        self.annotations, self.images = annotations, images
        self.answer_vocabulary, self.min_answer_count = answer_vocabulary, min_answer_count
        self._read: dict[str, list[Sample]] = {}
        self._ids: dict[tuple[int, int, str], str] = {}  # the ids of the files are letters

    def samples(self, split: str) -> list[Sample]:
        self._find_vocabulary()
        return self._from(split)

    def _find_vocabulary(self) -> None:
        if self.answer_names is not None:
            return
        if self.answer_vocabulary is not None:
            with self.faults.catch_errors():
                self.answer_names = read_answer_vocabulary(self.root / self.answer_vocabulary)
        elif self.min_answer_count is not None and self.official["train"]:
            different = (
                answer
                for sample in self._from("train")
                for answer in dict.fromkeys(map(normalise_answer, sample.answers))
            )
            self.answer_names = frequent_answers(different, at_least=self.min_answer_count) or None

    def _from(self, split: str) -> list[Sample]:
        if split in self._read:
            return self._read[split]
        found: list[Sample] = []
        self._read[split] = found
        official = self.official[split]
        if official is None:
            return found
        path = path_or_gzip(self.root / self.annotations.format(split=official))
        rows: Sequence[dict[str, Any]] = ()
        with self.faults.catch_errors():
            rows = list(objects_in_list(read_json(path, description=f"the questions of {self.name}"), location=path))
        names = [row.get("question_id") for row in rows]
        message = f"{path}: question_ids that are missing or not unique"
        self.faults.drop_duplicates(
            enumerate(names), lambda pair: pair[1], kind="duplicate question id", message=message
        )
        for number, row in enumerate(rows):
            with self.faults.catch_errors():
                found.append(self._sample(row, number, place=f"{path}: [{number}]", official=official, split=split))
        return found

    def _sample(self, row: dict[str, Any], number: int, *, place: str, official: str, split: str) -> Sample:
        name, image, text, choices = (row.get(key) for key in ("question_id", "image_id", "question", "choices"))
        if not isinstance(name, str) or not is_id(image) or not isinstance(text, str) or not text.strip():
            raise DataError(
                "missing key", f"{place}: expected texts question_id and question, and a whole number image_id"
            )
        if not _are_texts(choices) or len(set(choices)) < max(2, len(choices)):
            raise DataError("unexpected structure", f"{place}: expected choices, two different texts or more")
        right, answers = row.get("correct_choice_idx"), row.get("direct_answers", [])
        hidden = split == "test" and right is None and not answers
        if not hidden and (not isinstance(right, int) or not 0 <= right < len(choices)):
            raise DataError("unexpected structure", f"{place}: correct_choice_idx={right!r} is no position in choices")
        if not _are_texts(answers) or not (answers or hidden):
            raise DataError("question without answers", f"{place}: expected direct_answers, a list of texts")
        self._ids[(image, number, " ".join(text.split()))] = name
        difficult = split != "train" and row.get("difficult_direct_answer") is True
        return Sample(
            id=image,
            sample=number,
            image=self.resolve_path(self.root, self.images.format(split=official, id=image), location=place),
            question=" ".join(text.split()),
            answers=() if difficult else tuple(answers),
            choices=tuple(choices),
            label=right,
        )

    def question_figures(self, answered: Sequence[tuple[Sample, str]]) -> dict[str, float | None]:
        """direct_answer_accuracy, A-OKVQA's own, in percent: a third for each of the ten people who gave the answer, 1 at most,
        compared in lower case and as typed."""
        scores = [
            min(1.0, sum(answer.lower() == given.lower() for given in sample.answers) / 3)
            for sample, answer in answered
        ]
        return {"direct_answer_accuracy": 100 * sum(scores) / len(scores) if scores else None}

    def result_row(self, sample: Sample, answer: str) -> dict[str, object]:
        """A question's entry of the leaderboard's file, as a list of rows."""
        return {"question_id": self._ids[(sample.id, sample.sample, str(sample.question))], "direct_answer": answer}


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
