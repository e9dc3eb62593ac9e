"""Inputs that the graphs of an artifact are exported and compared with: pictures drawn by `vlp.scenes`, and random ids.

Pictures are drawn and not photographed, so that an artifact holds nobody's photo; ids are random, but begin and end as the
tokenizer's rows do, since pooling and masks depend on it.
"""

from __future__ import annotations

from typing import Any

import PIL.Image
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from vlp.deploy.export.graphs import AnswerPrefillGraph, MemoryGraph, PrefillGraph
from vlp.deploy.export.plan import PlannedGraph
from vlp.scenes.generate import describe_scene

PICTURES = 12
PICTURE_SIDE = 128  # pixels


def draw_pictures(count: int = PICTURES) -> list[PIL.Image.Image]:
    return [
        PIL.Image.fromarray(describe_scene(seed=0, split="test", index=index, size=PICTURE_SIDE)[1])
        for index in range(count)
    ]


class GoldenInputs:
    """pixels: of the drawn pictures, at the size of the graphs; `window`: height and width of those of the segmentation, where it
    reads windows.  rules: the tokenizer's, None where no graph reads texts; vocabulary_size: how many ids it has.
    context_length, decoder_length: tokens, of what text tower and decoder take."""

    def __init__(
        self,
        *,
        model: Any,
        pixels: UInt8[Tensor, "n 3 h w"] | None,
        rules: Any = None,
        vocabulary_size: int = 0,
        context_length: int = 0,
        decoder_length: int = 0,
        window: tuple[int, int] | None = None,
    ) -> None:
        self.model, self.pixels, self.rules, self.vocabulary_size = model, pixels, rules, vocabulary_size
        self.context_length, self.decoder_length, self.window = context_length, decoder_length, window

    @torch.no_grad()
    def of(self, graph: PlannedGraph, batch: int, length: int) -> dict[str, Tensor]:
        """By name, in the order of the graph.  length: of texts in tokens, where it is not too long; and the number of queries."""
        if "past" in graph.inputs:
            return self._of_step(graph, batch, length)
        found: dict[str, Tensor] = {}
        text = self._texts(batch, min(length, self.context_length)) if self.rules is not None else ()
        for name in graph.inputs:
            if name == "pixels":
                found[name] = self._pixels(batch, self.window if graph.name == "segment" else None)
            elif name == "image_states":
                found[name] = MemoryGraph(self.model)(self._pixels(batch, None))
            elif name == "queries":
                generator = torch.Generator().manual_seed(length)
                found[name] = F.normalize(torch.randn(length, self.model.projection.width, generator=generator), dim=-1)
            elif name == "ids" and graph.name.endswith("prefill"):
                found[name] = self._prompts(batch, min(length, self.decoder_length))
            else:
                found[name] = text[name.endswith("mask")]
        return found

    def _of_step(self, graph: PlannedGraph, batch: int, length: int) -> dict[str, Tensor]:
        """After as many tokens as `length`, but one less than the decoder takes."""
        module = AnswerPrefillGraph(self.model) if graph.name == "answer_step" else PrefillGraph(self.model)
        names = ("image_states", *(("question_ids", "question_mask") if graph.name == "answer_step" else ()), "ids")
        before = PlannedGraph(name="prefill", module=module.eval(), inputs=names)
        given = self.of(before, batch, min(length, self.decoder_length - 1))
        cache = dict(zip(module.outputs, module(*given.values()), strict=True))
        cache["ids"] = self._random_ids(batch, 1, seed=length)
        return {name: cache[name].contiguous() for name in graph.inputs}

    def _pixels(self, batch: int, window: tuple[int, int] | None) -> UInt8[Tensor, "b 3 _ _"]:
        assert self.pixels is not None
        pixels = self.pixels[torch.arange(batch) % len(self.pixels)]
        return pixels if window is None else pixels[..., : window[0], : window[1]].contiguous()

    def _texts(self, batch: int, length: int) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]:
        """The first row has all tokens, each other one fewer than that before it, down to start and end."""
        rules = self.rules
        shortest = min(length, rules.add_start + rules.add_end + 1)
        lengths = (length - torch.arange(batch)).clamp(min=shortest)
        columns = torch.arange(length)
        ids, mask = self._random_ids(batch, length, seed=length), columns < lengths[:, None]
        if rules.add_start:
            ids[:, 0] = rules.start_id
        if rules.add_end:
            ids[torch.arange(batch), lengths - 1] = rules.end_id
        return torch.where(mask, ids, rules.pad_id), mask

    def _prompts(self, batch: int, length: int) -> Int[Tensor, "b t"]:
        ids = self._random_ids(batch, length, seed=length)
        ids[:, 0] = self.rules.start_id
        return ids

    def _random_ids(self, batch: int, length: int, *, seed: int) -> Int[Tensor, "b t"]:
        rules = self.rules
        special = {rules.start_id, rules.end_id, rules.pad_id, rules.mask_id}
        ordinary = torch.tensor([index for index in range(min(self.vocabulary_size, 1000)) if index not in special])
        generator = torch.Generator().manual_seed(1000 * batch + seed)
        return ordinary[torch.randint(len(ordinary), (batch, length), generator=generator)]
