"""Translation of a sentence about a picture: the source, fused with the picture where there is one, is what the decoder reads.

A sample's question is the source and its answer the translation, as in vlp/datasets/multi30k.py. Trained as written answers to
questions are (Li et al., arXiv:2201.12086); measured by beam search, against the references as their files have them. That BLEU is
high does not show that the picture is used (Wu et al., arXiv:2105.14462). What does: the same with another picture and with none
(Elliott, D18-1329), and with the colour words of the source masked (Caglayan et al., arXiv:1903.08678).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from vlp import distributed
from vlp.data.colour_words import mask_colours
from vlp.data.other_pictures import OtherPictures
from vlp.distributed import mean_over_ranks
from vlp.metrics.translation import (
    TranslationScores,
    bleu_of_statistics,
    resampled_bleu,
    right_colours,
    with_interval,
)
from vlp.models.pictured import encode_source, reach_parameters, write_texts
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.lm import losses_at_targets
from vlp.structures import Batch, CrossAttentionCache, Features, Loss, Text, Tokens, require
from vlp.system.errors import UserError
from vlp.tasks.base import Task, write_results
from vlp.tokenizers.base import Tokenizer

PHOTOS = ("right", "shuffled", "none")
EXAMPLES = 12  # sentences that figures() returns
Memory = CrossAttentionCache | Tokens


class Translated(NamedTuple):
    """A sample's translations by (photo, whether the source's colours are masked); of a text without a picture, by "none" alone."""

    sample: int
    picture: int  # texts of one picture are resampled together
    has_picture: bool
    source: str
    reference: str
    texts: dict[tuple[str, bool], str]


class Translation(Task):
    """photos: which pictures the sources are translated with: their own (right), each that of another one (shuffled), or none. The
    first one is that of bleu and chrf.  masked: also with the colour words of the source masked.
    beams, max_length, length_penalty: of the search; lengths in tokens, start and end included.
    lowercase, tokenize: of sacrebleu's BLEU; they are part of its signature.  language, source_language: of targets and sources,
    for their colour words; None = the data's.  resamples: for the intervals; 0 = none.
    results_file: a JSON list of the sentences with their translations.
    """

    requires = ("question",)
    needs = ("text", "decoder")
    uses = ("memory",)
    image_optional = True

    def __init__(
        self,
        *,
        photos: Sequence[str] = ("right",),
        masked: bool = False,
        label_smoothing: float = 0.0,
        beams: int = 4,
        max_length: int = 60,
        length_penalty: float = 1.0,
        lowercase: bool = False,
        tokenize: str = "13a",
        language: str | None = None,
        source_language: str | None = None,
        resamples: int = 1000,
        results_file: str | Path | None = None,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        unknown = [photo for photo in photos if photo not in PHOTOS]
        if unknown or not photos or len(set(photos)) < len(photos):
            raise UserError(f"tasks.translation.photos={list(photos)}: give some of {', '.join(PHOTOS)}, each once")
        self.photos, self.masked, self.label_smoothing = tuple(photos), masked, label_smoothing
        self.beams, self.max_length, self.length_penalty = beams, max_length, length_penalty
        self.scores = TranslationScores(lowercase=lowercase, tokenize=tokenize)
        self.language, self.source_language, self.resamples = language, source_language, resamples
        self.results_file = None if results_file is None else Path(results_file)
        self._checked_lengths: set[str] = set()
        self._other_pictures: OtherPictures | None = None

    def applies(self, batch: Batch, source: str) -> bool:
        """Not to sentences with a class or choices, which are questions too."""
        labelled = batch.label is not None or batch.choices is not None
        return super().applies(batch, source) and not labelled and (batch.answer is not None or batch.raw is not None)

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer, data: Any) -> None:
        self._tokenizer = tokenizer
        self._languages = (
            self.source_language or getattr(data, "source_language", None),
            self.language or getattr(data, "target_language", None),
        )
        if self.masked and self._languages[0] is None:
            raise UserError("tasks.translation.masked=true: the data do not say their language: set source_language")
        self._data, self._other_pictures = data, None
        if getattr(data, "sampler", None) is not None:
            self._report_cut_texts(data)

    def _report_cut_texts(self, data: Any) -> None:
        """Once for each data set: how many training texts are longer than the tokenizer keeps."""
        if data.name in self._checked_lengths:
            return
        self._checked_lengths.add(data.name)
        longest = self._tokenizer.context_length - 2  # beside start and end
        for kind in ("sources", "translations"):
            samples = data.split("train")
            texts = [text for s in samples for text in ([s.question or ""] if kind == "sources" else s.answers)]
            cut = sum(len(ids) > longest for ids in self._tokenizer.encode(texts))
            if cut:
                rank_zero_warn(
                    f"{cut} of {len(texts)} {kind} of {data.name} train are longer than tokenizer.context_length="
                    f"{self._tokenizer.context_length} and lose their ends: raise it, and the lengths of text and decoder"
                )

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        answer, weight = require(batch.answer), require(batch.answer_weight)
        pictured = _pictured(batch)
        source = encode_source(model, require(batch.question), features.memory, pictured)
        text = Text(ids=answer.ids.flatten(0, 1), mask=answer.mask.flatten(0, 1))
        losses, correct = losses_at_targets(model.part("decoder"), text, source, label_smoothing=self.label_smoothing)
        counted = losses.shape[0] // len(batch)
        count = text.mask[:, 1:].sum()  # the mean over tokens: a long sentence counts more, as in the figure
        value = mean_over_ranks((losses.sum(1).view(-1, counted) * weight).sum(), count)
        if batch.pictured is not None and features.memory is None:
            value = value + reach_parameters(model)
        return Loss(value=value, logs={"accuracy": 100 * mean_over_ranks(correct.to(losses.dtype), count)})

    def reset(self) -> None:
        self._translated: list[Translated] = []

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if batch.raw is None:
            raise UserError("translation compares with references: it needs batches with `raw` samples")
        rows: list[dict[tuple[str, bool], str]] = [{} for _ in batch.raw]
        for masked in (False, True) if self.masked else (False,):
            question = self._masked_question(batch) if masked else require(batch.question)
            for photo in self.photos:
                self._add_texts(rows, (photo, masked), model, batch, question, features.memory)
        for sample, own, has_picture, texts in zip(
            batch.raw, batch.id.tolist(), _pictured(batch).tolist(), rows, strict=True
        ):
            if sample.answers:
                row = Translated(sample.sample, own, has_picture, sample.question or "", sample.answers[0], texts)
                self._translated.append(row)

    def _masked_question(self, batch: Batch) -> Text:
        texts = [mask_colours(sample.question or "", require(self._languages[0])) for sample in require(batch.raw)]
        return self._tokenizer(texts, kind="question").to(batch.id.device)

    def _add_texts(
        self,
        rows: list[dict[tuple[str, bool], str]],
        arm: tuple[str, bool],
        model: VisionLanguageModel,
        batch: Batch,
        question: Text,
        memory: Memory | None,
    ) -> None:
        """The translations with these pictures, of the samples with one; the others, which have none, are translated once."""
        photo, masked = arm
        pictured = _pictured(batch)
        first = photo == self.photos[0]
        wanted = torch.ones_like(pictured) if first else pictured
        if not bool(wanted.any()):
            return
        if photo == "none" or memory is None:
            memory, shown = None, None
        else:
            shown = pictured[wanted]
            if photo == "shuffled":
                memory = self._shuffled_memory(model, batch, pictured)
        source = encode_source(model, question.select(wanted), memory, shown)
        texts = iter(write_texts(model, self._tokenizer, source, beams=self.beams, max_length=self.max_length,
                                 length_penalty=self.length_penalty))  # fmt: skip
        for position in wanted.nonzero()[:, 0].tolist():
            rows[position][photo if pictured[position] else "none", masked] = next(texts)

    def _shuffled_memory(self, model: VisionLanguageModel, batch: Batch, pictured: Bool[Tensor, " b"]) -> Memory:
        if self._other_pictures is None:
            self._other_pictures = OtherPictures(self._data, self.split)
        image = self._other_pictures.images(batch.id[pictured].tolist()).to(batch.id.device)
        return model.project_memory(model.encode_image(image))

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """bleu and chrf of all sentences, with pictures as the first of `photos` says; where some have pictures and some none, and
        of each of several `photos`, <photo>_bleu with its interval, <photo>_chrf and, of data whose languages are known,
        <photo>_right_colour, of the sentences with a picture; <photo>_bleu_gain over no picture or another; text_bleu of all
        sentences without pictures. With masked colour words each again as masked_….

        figures(): samples, the first few (source, translation, reference), and sacrebleu's signatures."""
        found: list[Translated] = sorted(distributed.gather_lists(self._translated), key=lambda row: row.sample)
        records = [_record(row) for row in found]
        write_results(self.results_file, records)
        self._figures = {
            "samples": [(r.source, _text(r, self.photos[0], False), r.reference) for r in found[:EXAMPLES]]
        }
        self._figures |= self.scores.signatures()
        if not found:
            raise UserError("translation: no sentence has a reference; leave the task out of task=[…]")
        figures: dict[str, float | None] = {"sentences": float(len(found))}
        pictured = [row for row in found if row.has_picture]
        for masked in (False, True) if self.masked else (False,):
            prefix = "masked_" if masked else ""
            figures |= self._corpus_figures(prefix, found, self.photos[0], masked)
            if pictured and "none" in self.photos:
                figures |= self._corpus_figures(f"{prefix}text_", found, "none", masked)
            if pictured and (len(pictured) < len(found) or len(self.photos) > 1):
                figures["pictured_sentences"] = float(len(pictured))
                figures |= self._figures_by_photo(prefix, pictured, masked)
        return figures

    def card(self) -> dict[str, str]:
        """sacrebleu's signatures, for results.json."""
        return self.scores.signatures()

    def _corpus_figures(
        self, prefix: str, rows: Sequence[Translated], photo: str, masked: bool
    ) -> dict[str, float | None]:
        texts, references = [_text(row, photo, masked) for row in rows], [row.reference for row in rows]
        figures: dict[str, float | None] = {
            f"{prefix}bleu": self.scores.bleu(texts, references),
            f"{prefix}chrf": self.scores.chrf(texts, references),
        }
        if self._languages[1] is not None:
            right, count = right_colours(texts, references, self._languages[1])
            figures |= {f"{prefix}right_colour": 100 * right / count if count else None}
        return figures

    def _figures_by_photo(self, prefix: str, rows: Sequence[Translated], masked: bool) -> dict[str, float | None]:
        figures: dict[str, float | None] = {}
        group = torch.tensor([row.picture for row in rows])
        resamples: dict[str, Tensor] = {}
        for photo in self.photos:
            name = f"{prefix}{photo}_"
            figures |= self._corpus_figures(name, rows, photo, masked)
            if self.resamples and len(group.unique()) > 1:
                texts, references = [_text(row, photo, masked) for row in rows], [row.reference for row in rows]
                statistics = self.scores.statistics(texts, references)
                resamples[photo] = resampled_bleu(statistics, group, draws=self.resamples)
                figures |= with_interval(f"{name}bleu", bleu_of_statistics(statistics.sum(0)), resamples[photo])
        for photo in self.photos[1:]:
            gain = require(figures[f"{prefix}{self.photos[0]}_bleu"]) - require(figures[f"{prefix}{photo}_bleu"])
            paired = resamples[self.photos[0]] - resamples[photo] if photo in resamples else None
            figures |= with_interval(f"{prefix}{self.photos[0]}_over_{photo}_bleu", gain, paired)
        return figures

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        memory = None if batch.image is None else model.project_memory(model.encode_image(batch.image))
        texts = self.translate(model, self._tokenizer, require(batch.question), memory, batch.pictured)
        return [{"sample": s, "translation": text} for s, text in zip(batch.sample.tolist(), texts, strict=True)]

    @torch.no_grad()
    def translate(
        self,
        model: VisionLanguageModel,
        tokenizer: Tokenizer,
        text: Text,
        memory: Memory | None,
        pictured: Bool[Tensor, " b"] | None = None,
    ) -> list[str]:
        """See `encode_source`."""
        source = encode_source(model, text, memory, pictured)
        options: Mapping[str, Any] = {"beams": self.beams, "max_length": self.max_length}
        return write_texts(model, tokenizer, source, length_penalty=self.length_penalty, **options)


def _pictured(batch: Batch) -> Bool[Tensor, " b"]:
    if batch.pictured is not None:
        return batch.pictured
    return torch.full_like(batch.id, batch.image is not None, dtype=torch.bool)


def _text(row: Translated, photo: str, masked: bool) -> str:
    return row.texts[photo if row.has_picture else "none", masked]


def _record(row: Translated) -> dict[str, object]:
    texts = {f"masked_{photo}" if masked else photo: text for (photo, masked), text in row.texts.items()}
    return {"sample": row.sample, "source": row.source, "reference": row.reference, "translations": texts}
