"""GQA in its official files: one sample a question, with one answer; its own figures beside the accuracy.

    questions/{split}_{subset}_questions.json    {"05515938": {"imageId", "question", "answer", "isBalanced", "entailed": [id, ..],
                                                  "types": {"structural", "semantic", "detailed"}, ..}, ..}
    questions/{split}_all_questions/*.json       the same in parts, as train_all is distributed
    eval/{split}_choices.json                    {"05515938": {"valid": [answer, ..], "plausible": [answer, ..]}, ..}
    images/{imageId}.jpg

Balanced: 943,000 train, 132,062 val and 12,578 testdev questions; those of test and challenge have no public answers.
Hudson and Manning, arXiv:1902.09506, §4.4; cs.stanford.edu/people/dorarad/gqa.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import path_or_gzip, read_json
from vlp.data.answers import frequent_answers, normalise_answer
from vlp.data.datamodule import DataModule
from vlp.data.image_ids import OTHER_BASE, hash_61_bits, read_shared_genome_ids, visual_genome_id
from vlp.data.issues import DataError, SkippedRecords
from vlp.datasets.common.splits import named_splits
from vlp.structures import Sample
from vlp.system.errors import UserError

SUBSETS = ("balanced", "all")
Row = dict[str, Any]


class Gqa(DataModule):
    """splits: the official split of each split; null = none.  subset: "balanced", or "all" questions, by whose entailed ones
    consistency is measured; accuracy beside it is then that of the balanced ones among them.
    questions, choices, images: file names under root with {split}, {subset} and, for images, {id}; JSON may have .gz added.
    min_answer_count: training questions that have an answer of the vocabulary; null = no vocabulary.
    image_data: Visual Genome's file of that name under root, by which photos are known to be COCO's; null = none is.
    """

    def __init__(
        self,
        *,
        splits: Mapping[str, str | None],
        subset: str = "balanced",
        questions: str = "questions/{split}_{subset}_questions.json",
        choices: str = "eval/{split}_choices.json",
        images: str = "images/{id}.jpg",
        min_answer_count: int | None = 1,
        image_data: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if subset not in SUBSETS:
            raise UserError(f"data.subset={subset}: choose {' or '.join(SUBSETS)}")
        self.official, self.subset = named_splits(splits, setting="data.splits"), subset
        self.questions, self.choices, self.images = questions, choices, images
        self.min_answer_count, self.image_data = min_answer_count, image_data
        self._names: dict[int, str] = {}  # the ids as the files write them, with leading zeros
        self._balanced: dict[int, bool] = {}
        self._entailed: dict[int, tuple[int, ...]] = {}
        self._read: dict[str, list[Sample]] = {}
        self._shared_photos: dict[int, int] | None = None

    def samples(self, split: str) -> list[Sample]:
        if self.answer_names is None and self.min_answer_count is not None and self.official["train"]:
            answers = [answer for sample in self._from("train") for answer in sample.answers]
            self.answer_names = frequent_answers(answers, at_least=self.min_answer_count) or None
        return self._from(split)

    def _from(self, split: str) -> list[Sample]:
        if split not in self._read:
            found = [] if self.official[split] is None else self._samples(str(self.official[split]), split)
            message = f"{split} questions of {self.name}: ids that are not unique"
            self._read[split] = self.faults.drop_duplicates(
                found, lambda sample: sample.sample, kind="duplicate question id", message=message
            )
        return self._read[split]

    def _samples(self, official: str, split: str) -> list[Sample]:
        found = []
        for path in self._files(official):
            with SkippedRecords(self.faults, path) as left_out:
                for name, row in self._rows(path):
                    with self.faults.catch_errors():
                        sample = self._sample(name, row, place=f"{path}: {name}", split=split)
                        if sample.question:
                            found.append(sample)
                        elif split == "train":
                            left_out.add("empty question", name)
                        else:
                            raise DataError("empty question", f"{path}: {name}: empty question in evaluation data")
        return found

    def _files(self, official: str) -> list[Path]:
        path = self.root / self.questions.format(split=official, subset=self.subset)
        parts = sorted(path.with_suffix("").glob("*.json*"))
        return parts if parts and not path_or_gzip(path).exists() else [path_or_gzip(path)]

    def _rows(self, path: Path) -> Iterator[tuple[str, Row]]:
        content: Any = {}
        with self.faults.catch_errors():
            content = read_json(path, description=f"the questions of {self.name}")
            if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
                raise DataError("unexpected structure", f"{path}: expected an object of questions by their id")
        yield from content.items() if isinstance(content, dict) else ()

    def _sample(self, name: str, row: Row, *, place: str, split: str) -> Sample:
        photo, text, answer = (row.get(key) for key in ("imageId", "question", "answer"))
        if not name.isdecimal() or len(name) > 18 or not isinstance(photo, str) or not isinstance(text, str):
            raise DataError("missing key", f"{place}: expected digits as the id, and texts imageId and question")
        if not isinstance(answer, str) and (split != "test" or answer is not None):
            raise DataError("question without answers", f"{place}: expected a text answer")
        number, types = int(name), row.get("types")
        self._names[number] = name
        if split != "train":
            entailed = row.get("entailed") or []
            if not isinstance(entailed, list) or not all(
                isinstance(other, str) and other.isdecimal() for other in entailed
            ):
                raise DataError("unexpected structure", f"{place}: entailed is no list of ids of questions")
            self._entailed[number] = tuple(int(other) for other in entailed if other != name)
            self._balanced[number] = row.get("isBalanced", True) is True
        kind = types.get("structural") if isinstance(types, dict) else None
        return Sample(
            id=self._photo_id(photo),
            sample=number,
            image=self.resolve_path(self.root, self.images.format(id=photo), location=place),
            question=" ".join(text.split()),
            answers=() if answer is None else (answer,),
            answer_type=kind if isinstance(kind, str) else None,
        )

    def _photo_id(self, name: str) -> int:
        """Photos of testdev and test that Visual Genome lacks have names that begin with n."""
        if not name.isdecimal():
            return OTHER_BASE + hash_61_bits(f"gqa/{name}")
        if self._shared_photos is None:
            self._shared_photos = {} if self.image_data is None else read_shared_genome_ids(self.root / self.image_data)
        own = visual_genome_id(int(name))
        return self._shared_photos.get(own, own)

    def question_figures(self, answered: Sequence[tuple[Sample, str]]) -> dict[str, float | None]:
        """Percent of the balanced questions: accuracy; consistency, over those answered rightly that entail others, of the share of
        these that is right too; validity and plausibility, of answers that the choices file lists for the question. None for what
        cannot be known: questions that are entailed and were not asked, or no choices file."""
        right = {
            sample.sample: normalise_answer(answer) == normalise_answer(sample.answers[0])
            for sample, answer in answered
        }
        balanced = [(sample, answer) for sample, answer in answered if self._balanced.get(sample.sample, True)]
        figures: dict[str, float | None] = {"balanced_accuracy": _percent([right[s.sample] for s, _ in balanced])}
        shares: list[float] = []
        complete = True
        for sample, _ in balanced:
            entailed = self._entailed.get(sample.sample, ())
            complete &= all(other in right for other in entailed)
            if complete and entailed and right[sample.sample]:
                shares.append(sum(right[other] for other in entailed) / len(entailed))
        figures["consistency"] = _percent(shares) if complete else None
        return figures | self._listed_answers(balanced)

    def _listed_answers(self, answered: Sequence[tuple[Sample, str]]) -> dict[str, float | None]:
        listed: dict[str, Any] = {}
        for official in dict.fromkeys(filter(None, (self.official["val"], self.official["test"]))):
            path = path_or_gzip(self.root / self.choices.format(split=official, subset=self.subset))
            listed |= read_json(path, description=f"the choices of {self.name}") if path.exists() else {}
        rows: list[tuple[Any, str]] = [
            (listed.get(self._names[sample.sample]), normalise_answer(answer)) for sample, answer in answered
        ]
        known = all(isinstance(row, dict) and {"valid", "plausible"} <= row.keys() for row, _ in rows)
        return {
            figure: _percent([answer in map(normalise_answer, row[key]) for row, answer in rows]) if known else None
            for figure, key in (("validity", "valid"), ("plausibility", "plausible"))
        }

    def result_row(self, sample: Sample, answer: str) -> dict[str, object]:
        """Of the file that the test server takes."""
        return {"questionId": self._names[sample.sample], "prediction": answer}


def _percent(values: Sequence[float] | Sequence[bool]) -> float | None:
    return 100 * sum(values) / len(values) if values else None
