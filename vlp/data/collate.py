"""Loaded examples → `Batch`. It runs in the data workers, tokenizer included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vlp.data.answers import soft_scores
from vlp.data.mentions import add_regions
from vlp.data.view import VOID_CLASS
from vlp.structures import Batch, Boxes, Image, Sample, Segments, TeacherEmbeddings, Text, require
from vlp.system.errors import UserError

Tokenizer = Callable[..., Text]  # of a list of texts and their kind
# a teacher's stored embeddings of samples' pictures and of their captions, in this order
TeacherLookup = Callable[[Sequence[Sample], Sequence[str]], TeacherEmbeddings]


@dataclass(frozen=True, kw_only=True)
class LoadedExample:
    """A sample with its decoded and transformed image, and the captions chosen for this epoch."""

    sample: Sample
    seed: int
    pixels: Tensor | None  # uint8 [3 h w]; None = the sample has no image
    captions: tuple[str, ...]
    also_true: tuple[tuple[int, ...], ...] = ()  # of each of these captions
    frame: tuple[float, float, float, float] | None = None  # see Batch
    boxes: Boxes | None = None  # those of the sample that are visible in the pixels
    segmentation: Int[Tensor, "h w"] | None = None  # class of each pixel
    segments: Segments | None = None  # of a panoptic segmentation


def tokenizer_texts(sample: Sample) -> Iterator[str]:
    """Captions, the question, its different answers, and, of a question with rationales, all that can be chosen. Of a dialogue, the
    first text before the question too, its caption: the others are questions and answers of samples of their own."""
    yield from sample.captions
    if sample.question is not None:
        yield from sample.history[:1]
        yield sample.question
        yield from dict.fromkeys(sample.answers)
    if sample.rationales:
        yield from sample.choices
        yield from sample.rationales


def train_tokenizer(tokenizer: Any, texts: Iterable[str], stage: str | None) -> None:
    """For training, if the tokenizer is not trained yet. Each rank does it: the result depends on the texts alone."""
    if stage in (None, "fit") and tokenizer is not None and not getattr(tokenizer, "trained", True):
        tokenizer.train(texts)


def tokenize_rows(tokenizer: Tokenizer, rows: Sequence[Sequence[str]], *, kind: str = "caption") -> Text | None:
    """Rows of texts as [b k t]; shorter rows are padded with empty, masked texts. None if there is no text at all."""
    flat = [text for row in rows for text in row]
    if not flat:
        return None
    text = tokenizer(flat, kind=kind)
    shape = (len(rows), max(map(len, rows)), text.ids.shape[1])
    ids, mask = torch.zeros(shape, dtype=text.ids.dtype), torch.zeros(shape, dtype=torch.bool)
    real = torch.arange(shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    ids[real], mask[real] = text.ids, text.mask
    return Text(ids=ids, mask=mask)


def pad_also_true(rows: Sequence[Sequence[Sequence[int]]], captions: int) -> Int[Tensor, "b k m"]:
    """Ids of the other images that each caption of each sample describes, padded with -1."""
    longest = max((len(ids) for row in rows for ids in row), default=0)
    padded = torch.full((len(rows), captions, longest), -1)
    for sample_ids, row in zip(padded, rows, strict=True):
        for caption_ids, ids in zip(sample_ids, row, strict=False):  # a sample with fewer captions has fewer lists
            caption_ids[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return padded


def _images_and_rows(pixels: Sequence[Tensor | None], *, some_lack_one: bool) -> dict[str, Any]:
    """The batch's `image` and `pictured`.  some_lack_one: whether samples of the data set do, in this batch or another one."""
    present = [image for image in pixels if image is not None]
    lacking = len(present) < len(pixels)
    return {
        "image": pad_images(present) if present else None,
        "pictured": torch.tensor([image is not None for image in pixels]) if lacking or some_lack_one else None,
    }


def pad_images(pixels: Sequence[Tensor]) -> Image:
    """Images [3 h w] as one batch; different sizes are padded at the bottom and right and kept in `size`."""
    sizes = torch.tensor([image.shape[-2:] for image in pixels])
    height, width = sizes.max(0).values.tolist()
    if bool((sizes == sizes[0]).all()):
        return Image(pixels=torch.stack(list(pixels)))
    padded = [F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in pixels]
    return Image(pixels=torch.stack(padded), size=sizes)


@dataclass(frozen=True, kw_only=True)
class Collate:
    """available_fields: the fields that samples of the data set have. They decide which fields its batches have, since all
    ranks of a step must run the same objectives, even if no sample of one rank has a field.
    classes: how many class names the data set has.  answers: index of each answer of the vocabulary, None = no vocabulary.
    one_caption: captions are [b t] if each sample of the batch has one.
    regions: whether question, choices and rationales say of each token which boxes it mentions (`Sample.tags`).
    teachers: by name, what each training batch gets of them; filled after the loader is made.
    """

    tokenizer: Tokenizer | None
    available_fields: frozenset[str]
    classes: int
    training: bool
    one_caption: bool = False
    answers: Mapping[str, int] | None = None
    regions: bool = False
    teachers: Mapping[str, TeacherLookup] = field(default_factory=dict)

    def _teacher_embeddings(self, examples: Sequence[LoadedExample]) -> dict[str, TeacherEmbeddings] | None:
        if not self.training or not self.teachers:
            return None
        samples = [example.sample for example in examples]
        captions = [caption for example in examples for caption in example.captions]
        return {name: embeddings(samples, captions) for name, embeddings in self.teachers.items()}

    def _refuse_unavailable_fields(self, samples: Sequence[Sample]) -> None:
        """Of shards only the first sample was read to find the fields: raises UserError if a later one has others."""
        for name in (
            "captions", "question", "history", "answers", "label", "relevance", "also_true", "categories", "rationales",
            "rationale_label",
        ):  # fmt: skip
            if name not in self.available_fields and any(getattr(sample, name) not in (None, ()) for sample in samples):
                raise UserError(
                    f"a sample has {name}, and the first one of its data set has none: split them into two data sources"
                )

    def _present_in_all(self, description: str, name: str, present: int, samples: int) -> bool:
        """Whether all samples have the field; raises UserError if only some of the data set's samples have it."""
        if present == samples:
            return True
        if present or (self.training and name in self.available_fields):
            kind = "training " if self.training else ""
            raise UserError(
                f"{present} of {samples} samples of a {kind}batch have a {description}, and either all or none of a data set "
                "must: split them into two data sources"
            )
        return False

    def _tokenize_captions(self, rows: Sequence[Sequence[str]]) -> Text | None:
        if not any(rows):
            if self.training and "captions" in self.available_fields:
                raise UserError(
                    f"{len(rows)} training samples of a data set with captions have none: split them into two data sources"
                )
            return None
        if self.tokenizer is None:  # of a model without texts, which is measured on data that have captions too
            if self.training:
                raise UserError("the data have captions and no tokenizer is configured: choose one with tokenizer=")
            return None
        if self.one_caption and all(len(row) == 1 for row in rows):
            return self.tokenizer([row[0] for row in rows], kind="caption")
        return tokenize_rows(self.tokenizer, rows)

    def _tokenize_questions(self, samples: Sequence[Sample]) -> Text | None:
        questions = [sample.question for sample in samples if sample.question is not None]
        if not self._present_in_all("question", "question", len(questions), len(samples)) or self.tokenizer is None:
            return None
        if "history" not in self.available_fields:
            return self.tokenizer(questions, kind="question")
        dialogues = [" ".join((*sample.history, question)) for sample, question in zip(samples, questions, strict=True)]
        return self.tokenizer(dialogues, kind="dialogue")

    def _relevance(self, samples: Sequence[Sample]) -> Float[Tensor, "b k"] | None:
        if "relevance" not in self.available_fields or not any(sample.choices for sample in samples):
            return None
        relevance = torch.full((len(samples), max(len(sample.choices) for sample in samples)), -1.0)
        for row, sample in zip(relevance, samples, strict=True):
            row[: len(sample.relevance)] = torch.tensor(sample.relevance)
        return relevance

    def _tokenize_rationales(self, samples: Sequence[Sample]) -> Text | None:
        rows = [sample.rationales for sample in samples]
        if not self._present_in_all("list of rationales", "rationales", sum(map(bool, rows)), len(rows)):
            return None
        return None if self.tokenizer is None else tokenize_rows(self.tokenizer, rows)

    def _tokenize_choices(self, samples: Sequence[Sample]) -> Text | None:
        """Those of a dialogue are answers, which a decoder may have to end."""
        rows = [sample.choices for sample in samples]
        if not any(rows) or self.tokenizer is None:
            return None
        return tokenize_rows(self.tokenizer, rows, kind="answer" if "history" in self.available_fields else "caption")

    def _answers_and_weights(self, samples: Sequence[Sample]) -> tuple[Text | None, Float[Tensor, "b k"] | None]:
        """Each sample's distinct answers, ended for generation, and each answer's share of the sample's weight."""
        counts = [Counter(sample.answers) for sample in samples]
        if not self.training or self.tokenizer is None or "answers" not in self.available_fields:
            return None, None
        if not any(counts):  # one empty answer of weight 0 for each sample
            return tokenize_rows(self.tokenizer, [[""]] * len(samples), kind="answer"), torch.zeros(len(samples), 1)
        weight = torch.zeros(len(samples), max(map(len, counts)))
        for row, count, sample in zip(weight, counts, samples, strict=True):
            shares = [times / len(sample.answers) * sample.answer_weight for times in count.values()]
            row[: len(shares)] = torch.tensor(shares)
        return tokenize_rows(self.tokenizer, [list(count) for count in counts], kind="answer"), weight

    def _answer_scores(self, samples: Sequence[Sample]) -> Float[Tensor, "b a"] | None:
        if self.answers is None or "answers" not in self.available_fields:
            return None
        scores = torch.zeros(len(samples), len(self.answers))
        for row, sample in zip(scores, samples, strict=True):
            for answer, score in soft_scores(sample.answers, self.answers).items():
                row[answer] = score
        return scores

    def _segmentations(self, examples: Sequence[LoadedExample]) -> dict[str, Any]:
        """The batch's `segmentation` and `segments`, padded at the bottom and right."""
        maps = [example.segmentation for example in examples if example.segmentation is not None]
        name = "panoptic" if "panoptic" in self.available_fields else "label_map"
        if not self._present_in_all("segmentation", name, len(maps), len(examples)):
            return {}
        height, width = (max(grid.shape[side] for grid in maps) for side in (0, 1))

        def pad(grid: Int[Tensor, "_ _"], value: int) -> Int[Tensor, "h w"]:
            return F.pad(grid, (0, width - grid.shape[1], 0, height - grid.shape[0]), value=value)

        segments = [example.segments for example in examples if example.segments is not None]
        return {
            "segmentation": torch.stack([pad(grid, VOID_CLASS) for grid in maps]),
            "segments": [Segments(label=one.label, index=pad(one.index, -1)) for one in segments] or None,
        }

    def _with_masks(self, example: LoadedExample) -> Boxes:
        """Its boxes; of data with masks, a picture without any box has no masks instead of unknown ones, and the same of
        crowds."""
        boxes = require(example.boxes)
        changed: dict[str, Tensor] = {}
        if "box_masks" in self.available_fields and boxes.mask is None and not len(boxes.label):
            changed["mask"] = torch.zeros(0, *require(example.pixels).shape[-2:], dtype=torch.bool)
        if "box_crowds" in self.available_fields and boxes.crowd is None:
            changed["crowd"] = torch.zeros(len(boxes.label), dtype=torch.bool)
        return replace(boxes, **changed)

    def __call__(self, examples: Sequence[LoadedExample]) -> Batch | None:
        """None for no examples, the batch of a rank without evaluation samples."""
        if not examples:
            return None
        samples = [example.sample for example in examples]
        self._refuse_unavailable_fields(samples)
        labels = [-1 if sample.label is None else sample.label for sample in samples]
        reasons = [-1 if sample.rationale_label is None else sample.rationale_label for sample in samples]
        categories = None
        # a label beside choices is one of these; also for images without any class
        if self.classes and ("label" not in self.available_fields or "choices" in self.available_fields):
            categories = torch.zeros(len(samples), self.classes, dtype=torch.bool)
            for row, sample in zip(categories, samples, strict=True):
                row[list(sample.categories)] = True
        answer, answer_weight = self._answers_and_weights(samples)
        question, choices = self._tokenize_questions(samples), self._tokenize_choices(samples)
        rationales = self._tokenize_rationales(samples)
        if self.regions:
            question, choices, rationales = add_regions(self.tokenizer, samples, question, choices, rationales)
        frames = [example.frame for example in examples if example.frame is not None]
        boxes = [self._with_masks(example) for example in examples if example.boxes is not None]
        self._present_in_all("list of boxes", "boxes", len(boxes), len(examples))
        captions = [example.captions for example in examples]
        return Batch(
            id=torch.tensor([sample.id for sample in samples]),
            sample=torch.tensor([sample.sample for sample in samples]),
            seed=torch.tensor([example.seed for example in examples]),
            **_images_and_rows(
                [example.pixels for example in examples], some_lack_one="no_image" in self.available_fields
            ),
            caption=self._tokenize_captions(captions),
            also_true=(
                pad_also_true([example.also_true for example in examples], max(map(len, captions)))
                if "also_true" in self.available_fields
                else None
            ),
            question=question,
            answer=answer,
            answer_weight=answer_weight,
            scores=self._answer_scores(samples),
            choices=choices,
            relevance=self._relevance(samples),
            label=torch.tensor(labels) if "label" in self.available_fields else None,
            rationales=rationales,
            rationale_label=torch.tensor(reasons) if "rationale_label" in self.available_fields else None,
            categories=categories,
            boxes=boxes or None,
            frame=torch.tensor(frames) if len(frames) == len(examples) else None,
            **self._segmentations(examples),
            teachers=self._teacher_embeddings(examples),
            raw=None if self.training else tuple(samples),
        )
