"""Captioning: a caption of each image, scored by BLEU, ROUGE-L and CIDEr-D against the references.

Li et al., arXiv:2201.12086, §5.2; salesforce/BLIP train_caption.py: beam search with three beams, 5 to 20 tokens, prompt
included. COCO's figures are percent of `vlp.metrics.caption_metrics`' scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from vlp import distributed
from vlp.metrics.caption_metrics import caption_scores
from vlp.models.generation import Rules, beam_search, greedy, nucleus
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Image, Tokens
from vlp.system.errors import UserError
from vlp.tasks.base import Task
from vlp.tokenizers.base import Tokenizer

SHOWN = 12  # images that figures() holds


class Captioning(Task):
    """prompt: words that every caption goes on from, not part of it.  beams: 1 = greedy.  max_length, min_length: in
    tokens, start and prompt included.  top_p: draw from the most probable tokens of that probability instead, as the
    image's seed decides; None = beam search.  results_file: where captions are written as COCO's evaluation takes them.
    """

    requires = ("image",)
    needs = ("vision", "decoder")
    uses = ("image",)

    def __init__(
        self,
        *,
        prompt: str = "",
        beams: int = 3,
        max_length: int = 20,
        min_length: int = 5,
        repetition_penalty: float = 1.0,
        length_penalty: float = 1.0,
        top_p: float | None = None,
        results_file: str | Path | None = None,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if weight:
            raise UserError("captioning has no loss of its own: train with objective=[lm], and leave its weight at 0")
        if top_p is not None and not 0 < top_p <= 1:
            raise UserError(f"tasks.captioning.top_p={top_p}: a probability above 0, at most 1")
        self.prompt, self.beams, self.length_penalty, self.top_p = prompt, beams, length_penalty, top_p
        self.max_length, self.min_length, self.repetition_penalty = max_length, min_length, repetition_penalty
        self.results_file = None if results_file is None else Path(results_file)

    def applies(self, batch: Batch, source: str) -> bool:
        return super().applies(batch, source) and (batch.raw is None or any(sample.captions for sample in batch.raw))

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer, data: Any) -> None:
        self._tokenizer = tokenizer

    def reset(self) -> None:
        self._captions: dict[int, str] = {}
        self._references: dict[int, tuple[str, ...]] = {}
        self._paths: dict[int, str] = {}
        self._figures: dict[str, object] = {}

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        assert features.image is not None
        if batch.raw is None:
            raise UserError("captioning compares with references: it needs batches with `raw` samples")
        captions = self._write(model, self._tokenizer, features.image, batch.seed)
        for sample, caption in zip(batch.raw, captions, strict=True):
            if sample.captions:
                self._captions[sample.id], self._paths[sample.id] = caption, str(sample.image)
                self._references[sample.id] = self._references.get(sample.id, ()) + sample.captions

    def compute(self, model: VisionLanguageModel) -> dict[str, float]:
        """bleu_1 … bleu_4, rouge_l and cider_d, times 100."""
        captions, paths = (
            dict(chain.from_iterable(part.items() for part in distributed.gather_objects(own)))
            for own in (self._captions, self._paths)
        )
        references: dict[int, tuple[str, ...]] = {}
        for part in distributed.gather_objects(self._references):
            references |= {image: references.get(image, ()) + told for image, told in part.items()}
        captions = dict(sorted(captions.items()))  # by id, or the file would tell how many ranks wrote it
        if self.results_file is not None and distributed.rank() == 0:
            self.results_file.parent.mkdir(parents=True, exist_ok=True)
            records = [{"image_id": image, "caption": caption} for image, caption in captions.items()]
            self.results_file.write_text(json.dumps(records))
        self._figures = {"samples": [(paths[i], captions[i], references[i]) for i in list(captions)[:SHOWN]]}
        scores = caption_scores(captions, references)
        return {name: 100 * value for name, value in scores.items()} | {"images": float(len(captions))}

    def figures(self) -> dict[str, object]:
        """samples: the first few images, each with its path, the model's caption and the references."""
        return self._figures

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """As COCO's evaluation takes them: image_id and caption."""
        assert batch.image is not None
        captions = self.caption(model, self._tokenizer, batch.image, seeds=batch.seed)
        return [
            {"image_id": image, "caption": caption} for image, caption in zip(batch.id.tolist(), captions, strict=True)
        ]

    @torch.no_grad()
    def caption(
        self, model: VisionLanguageModel, tokenizer: Tokenizer, image: Image, *, seeds: Int[Tensor, " b"] | None = None
    ) -> list[str]:
        """seeds: for `top_p`; None = the image's place."""
        seeds = torch.arange(len(image.pixels), device=image.pixels.device) if seeds is None else seeds
        return self._write(model, tokenizer, model.encode_image(image), seeds)

    def _write(
        self, model: VisionLanguageModel, tokenizer: Tokenizer, image: Tokens, seeds: Int[Tensor, " b"]
    ) -> list[str]:
        decoder = model.part("decoder")
        rules = Rules(
            end_id=tokenizer.end_id,
            pad_id=tokenizer.pad_id,
            max_length=self.max_length,
            min_length=self.min_length,
            repetition_penalty=self.repetition_penalty,
        )
        first = [tokenizer.start_id, *tokenizer.encode([self.prompt])[0]]
        prompt = torch.tensor(first, device=seeds.device).expand(len(seeds), -1)
        start = decoder.step, decoder.start(image), prompt, rules
        if self.top_p is not None:
            ids = nucleus(*start, top_p=self.top_p, seeds=seeds)
        elif self.beams == 1:
            ids = greedy(*start)
        else:
            ids = beam_search(*start, beams=self.beams, length_penalty=self.length_penalty)
        return [tokenizer.decode(_ended(row[len(first) :], tokenizer)) for row in ids.tolist()]


def _ended(row: list[int], tokenizer: Tokenizer) -> list[int]:
    """Without end and padding; a text that was cut off at max_length has neither."""
    return row[: row.index(tokenizer.end_id)] if tokenizer.end_id in row else row
