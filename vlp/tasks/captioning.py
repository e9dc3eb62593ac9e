"""Captioning: a caption of each image, scored by BLEU, ROUGE-L and CIDEr-D against the references.

Li et al., arXiv:2201.12086, §5.2; salesforce/BLIP train_caption.py: beam search with three beams, 5 to 20 tokens, prompt
included. COCO's figures are percent of `vlp.metrics.caption_metrics`' scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from vlp import distributed
from vlp.metrics.caption_metrics import caption_scores
from vlp.models.decoder.static_cache import CACHES, generation_steps
from vlp.models.generation import GenerationRules, beam_search, greedy_search, sample_nucleus
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Image, Tokens, require
from vlp.system.errors import UserError
from vlp.tasks.base import Task, write_results
from vlp.tokenizers.base import Tokenizer

EXAMPLES = 12  # images that figures() returns


class Captioning(Task):
    """prompt: text that every caption continues; it is not part of the caption.  beams: 1 = greedy.  max_length, min_length:
    in tokens, start and prompt included.  top_p: nucleus sampling with that probability, by the image's seed; None = beam
    search.  cache: of the decoder's keys and values, see `generation_steps`.  results_file: for the captions, in the format of
    COCO's evaluation.
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
        cache: str = "growing",
        results_file: str | Path | None = None,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if weight:
            raise UserError("captioning has no loss of its own: train with objective=[lm], and leave its weight at 0")
        if top_p is not None and not 0 < top_p <= 1:
            raise UserError(f"tasks.captioning.top_p={top_p}: give a probability above 0 and at most 1")
        if cache not in CACHES:
            raise UserError(f"tasks.captioning.cache={cache}: choose one of {', '.join(CACHES)}")
        self.cache = cache
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
        self._left_out = 0

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if batch.raw is None:
            raise UserError("captioning compares with references: it needs batches with `raw` samples")
        captions = self._generate(model, self._tokenizer, require(features.image), batch.seed)
        self._left_out += sum(not sample.captions for sample in batch.raw)
        for sample, caption in zip(batch.raw, captions, strict=True):
            if sample.captions:
                self._captions[sample.id], self._paths[sample.id] = caption, str(sample.image)
                self._references[sample.id] = self._references.get(sample.id, ()) + sample.captions

    def left_out(self) -> int:
        return self._left_out

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """bleu_1 … bleu_4, rouge_l and cider_d (undefined for one image), times 100.

        figures(): samples, the first few images, each as (path, caption of the model, references).
        """
        captions = dict(
            sorted(distributed.gather_lists(tuple(self._captions.items())))
        )  # the same for any number of ranks
        paths = dict(distributed.gather_lists(tuple(self._paths.items())))
        references: dict[int, tuple[str, ...]] = {}
        for image, texts in distributed.gather_lists(tuple(self._references.items())):
            references[image] = references.get(image, ()) + texts
        write_results(self.results_file, [{"image_id": image, "caption": text} for image, text in captions.items()])
        self._figures = {"samples": [(paths[i], captions[i], references[i]) for i in list(captions)[:EXAMPLES]]}
        scores = caption_scores(captions, references)
        figures = {name: None if value is None else 100 * value for name, value in scores.items()}
        return figures | {"images": float(len(captions))}

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """In the format of COCO's evaluation: image_id and caption."""
        captions = self.caption(model, self._tokenizer, require(batch.image), seeds=batch.seed)
        return [
            {"image_id": image, "caption": caption} for image, caption in zip(batch.id.tolist(), captions, strict=True)
        ]

    @torch.no_grad()
    def caption(
        self, model: VisionLanguageModel, tokenizer: Tokenizer, image: Image, *, seeds: Int[Tensor, " b"] | None = None
    ) -> list[str]:
        """seeds: for `top_p`; None = the image's position in the batch."""
        seeds = torch.arange(len(image.pixels), device=image.pixels.device) if seeds is None else seeds
        return self._generate(model, tokenizer, model.encode_image(image), seeds)

    def _generate(
        self, model: VisionLanguageModel, tokenizer: Tokenizer, image: Tokens, seeds: Int[Tensor, " b"]
    ) -> list[str]:
        decoder = model.part("decoder")
        rules = GenerationRules(
            end_id=tokenizer.end_id,
            pad_id=tokenizer.pad_id,
            max_length=self.max_length,
            min_length=self.min_length,
            repetition_penalty=self.repetition_penalty,
        )
        prefix = [tokenizer.start_id, *tokenizer.encode([self.prompt])[0]]
        prompt = torch.tensor(prefix, device=seeds.device).expand(len(seeds), -1)
        steps = generation_steps(decoder, cache=self.cache, capacity=self.max_length)
        arguments = steps.step, steps.empty_cache(image), prompt, rules
        if self.top_p is not None:
            ids = sample_nucleus(*arguments, top_p=self.top_p, seeds=seeds)
        elif self.beams == 1:
            ids = greedy_search(*arguments)
        else:
            ids = beam_search(*arguments, beams=self.beams, length_penalty=self.length_penalty)
        return [tokenizer.decode(row[len(prefix) :]) for row in ids.tolist()]
