"""Loaded examples → `Batch`. It runs in the data workers, tokenizer included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vlp.data.answers import soft_scores
from vlp.structures import Batch, Boxes, Image, Sample, Text
from vlp.system.errors import UserError

IGNORED = 255  # class of a pixel that has none
Tokenizer = Callable[..., Text]  # of a list of texts and their kind


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sample whose image has been decoded and transformed, and the captions chosen for this visit."""

    sample: Sample
    seed: int
    pixels: Tensor  # uint8 [3 h w]
    captions: tuple[str, ...]
    also_true: tuple[tuple[int, ...], ...] = ()  # of each of these captions
    boxes: Boxes | None = None  # what the pixels show of the sample's
    segmentation: Int[Tensor, "h w"] | None = None  # class of each pixel


def tokenize_rows(tokenizer: Tokenizer, rows: Sequence[Sequence[str]], *, kind: str = "caption") -> Text | None:
    """Texts of rows of different lengths as [b k t], rows filled up with empty, masked texts; None without any text."""
    flat = [text for row in rows for text in row]
    if not flat:
        return None
    text = tokenizer(flat, kind=kind)
    shape = (len(rows), max(map(len, rows)), text.ids.shape[1])
    ids, mask = torch.zeros(shape, dtype=text.ids.dtype), torch.zeros(shape, dtype=torch.bool)
    real = torch.arange(shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    ids[real], mask[real] = text.ids, text.mask
    return Text(ids=ids, mask=mask)


def also_true_rows(rows: Sequence[Sequence[Sequence[int]]], captions: int) -> Int[Tensor, "b k m"]:
    """Ids of the images that each caption of each sample is also true of, filled up with -1."""
    longest = max((len(ids) for row in rows for ids in row), default=0)
    found = torch.full((len(rows), captions, longest), -1)
    for place, row in zip(found, rows, strict=True):
        for slot, ids in zip(place, row, strict=False):  # a sample with fewer captions has fewer lists
            slot[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return found


def pad_images(pixels: Sequence[Tensor]) -> Image:
    """Images [3 h w] as one batch; of different sizes, they are padded below and on the right, and `size` tells theirs."""
    sizes = torch.tensor([image.shape[-2:] for image in pixels])
    height, width = sizes.max(0).values.tolist()
    if bool((sizes == sizes[0]).all()):
        return Image(pixels=torch.stack(list(pixels)))
    padded = [F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in pixels]
    return Image(pixels=torch.stack(padded), size=sizes)


@dataclass(frozen=True, kw_only=True)
class Collate:
    """given: the fields that samples of the data set have. They decide which fields its batches have, as the ranks of a step
    must run the same objectives, also where all samples of one rank lack what others have.
    classes: how many class names the data set has.  answers: index of each answer of the vocabulary, None = there is
    none.  Training with one caption a sample gives captions [b t].
    """

    tokenizer: Tokenizer | None
    given: frozenset[str]
    classes: int
    training: bool
    one_caption: bool = False
    answers: Mapping[str, int] | None = None

    def _check_given(self, samples: Sequence[Sample]) -> None:
        """Raises UserError for what the first sample of shards lacks and a later one has."""
        for field in ("captions", "question", "answers", "label", "also_true", "categories"):
            if field not in self.given and any(getattr(sample, field) not in (None, ()) for sample in samples):
                raise UserError(
                    f"a sample has {field}, and the first one of its data set has not: make two data sources of them"
                )

    def _all_have(self, what: str, field: str, having: int, samples: int) -> bool:
        """Of what cannot be left empty: all or none of the samples have it."""
        if having == samples:
            return True
        if having or (self.training and field in self.given):
            kind = "training " if self.training else ""
            raise UserError(
                f"{having} of {samples} samples of a {kind}batch have a {what}, and others of their data set do too or do "
                "not: make two data sources of them"
            )
        return False

    def _text(self, rows: Sequence[Sequence[str]]) -> Text | None:
        if not any(rows):
            if self.training and "captions" in self.given:
                raise UserError(
                    f"{len(rows)} training samples of a data set with captions have none: make two data sources of them"
                )
            return None
        if self.tokenizer is None:
            raise UserError("the data have captions and no tokenizer was given to turn them into tokens")
        if self.one_caption and all(len(row) == 1 for row in rows):
            return self.tokenizer([row[0] for row in rows], kind="caption")
        return tokenize_rows(self.tokenizer, rows)

    def _question(self, samples: Sequence[Sample]) -> Text | None:
        questions = [sample.question for sample in samples if sample.question is not None]
        if not self._all_have("question", "question", len(questions), len(samples)) or self.tokenizer is None:
            return None
        return self.tokenizer(questions, kind="question")

    def _answer(self, samples: Sequence[Sample]) -> tuple[Text | None, Float[Tensor, "b k"] | None]:
        """Each sample's distinct answers, ended for generation, and the share that each of them has of its weight."""
        counts = [Counter(sample.answers) for sample in samples]
        if not self.training or self.tokenizer is None or "answers" not in self.given:
            return None, None
        if not any(counts):  # of no weight
            return tokenize_rows(self.tokenizer, [[""]] * len(samples), kind="answer"), torch.zeros(len(samples), 1)
        weight = torch.zeros(len(samples), max(map(len, counts)))
        for row, count, sample in zip(weight, counts, samples, strict=True):
            shares = [times / len(sample.answers) * sample.answer_weight for times in count.values()]
            row[: len(shares)] = torch.tensor(shares)
        return tokenize_rows(self.tokenizer, [list(count) for count in counts], kind="answer"), weight

    def _scores(self, samples: Sequence[Sample]) -> Float[Tensor, "b a"] | None:
        if self.answers is None or "answers" not in self.given:
            return None
        scores = torch.zeros(len(samples), len(self.answers))
        for row, sample in zip(scores, samples, strict=True):
            for answer, score in soft_scores(sample.answers, self.answers).items():
                row[answer] = score
        return scores

    def _segmentation(self, maps: Sequence[Tensor | None]) -> Int[Tensor, "b h w"] | None:
        """Classes [h w] of pixels as one batch, ignored in the padding."""
        known = [grid for grid in maps if grid is not None]
        if not self._all_have("segmentation", "panoptic", len(known), len(maps)):
            return None
        height, width = (max(grid.shape[side] for grid in known) for side in (0, 1))
        padded = [F.pad(grid, (0, width - grid.shape[1], 0, height - grid.shape[0]), value=IGNORED) for grid in known]
        return torch.stack(padded)

    def __call__(self, examples: Sequence[Example]) -> Batch | None:
        """None of no example, which a rank without evaluation samples gets."""
        if not examples:
            return None
        samples = [example.sample for example in examples]
        self._check_given(samples)
        choices = [sample.choices for sample in samples]
        labels = [-1 if sample.label is None else sample.label for sample in samples]
        categories = None
        if self.classes and "label" not in self.given:  # images that show none of them count too
            categories = torch.zeros(len(samples), self.classes, dtype=torch.bool)
            for row, sample in zip(categories, samples, strict=True):
                row[list(sample.categories)] = True
        answer, answer_weight = self._answer(samples)
        boxes = [example.boxes for example in examples if example.boxes is not None]
        self._all_have("list of boxes", "boxes", len(boxes), len(examples))
        captions = [example.captions for example in examples]
        return Batch(
            id=torch.tensor([sample.id for sample in samples]),
            sample=torch.tensor([sample.sample for sample in samples]),
            seed=torch.tensor([example.seed for example in examples]),
            image=pad_images([example.pixels for example in examples]),
            caption=self._text(captions),
            also_true=(
                also_true_rows([example.also_true for example in examples], max(map(len, captions)))
                if "also_true" in self.given
                else None
            ),
            question=self._question(samples),
            answer=answer,
            answer_weight=answer_weight,
            scores=self._scores(samples),
            choices=None if not any(choices) or self.tokenizer is None else tokenize_rows(self.tokenizer, choices),
            label=torch.tensor(labels) if "label" in self.given else None,
            categories=categories,
            boxes=boxes or None,
            segmentation=self._segmentation([example.segmentation for example in examples]),
            raw=None if self.training else tuple(samples),
        )
