"""The graphs of an artifact as modules from tensors to tensors; `vlp.deploy.runtime.manifest` says what each takes and gives.

uint8 pixels are normalised inside, and embeddings are projected and brought to unit length in float32 inside, so that nobody who
runs a graph can get them wrong. The arguments of `forward` are named as the graph's inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from vlp.models.decoder.causal import CausalDecoder, DecoderCache
from vlp.models.decoder.coca import CocaCache, CocaDecoder
from vlp.models.dense.mask_clip import project_patches, text_logits
from vlp.models.precision import apply_head, to_float32
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import CrossAttentionCache, Image, Text, Tokens

Pixels = UInt8[Tensor, "b 3 h w"]
Ids = Int[Tensor, "b t"]
Mask = Bool[Tensor, "b t"]


class GraphModule(nn.Module):
    """outputs: names, in the order of what `forward` returns."""

    outputs: tuple[str, ...] = ()

    def __init__(self, model: VisionLanguageModel, head: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.head = model, head


class ImageGraph(GraphModule):
    outputs = ("image_embeds",)

    def forward(self, pixels: Pixels) -> Float[Tensor, "b e"]:
        return self.model.embed_image(self.model.encode_image(Image(pixels=pixels), pooled_only=True))


class TextGraph(GraphModule):
    outputs = ("text_embeds",)

    def forward(self, ids: Ids, mask: Mask) -> Float[Tensor, "b e"]:
        return self.model.embed_text(self.model.encode_text(Text(ids=ids, mask=mask), pooled_only=True))


class ImagePlacesGraph(GraphModule):
    outputs = ("image_embeds", "place_embeds")

    def forward(self, pixels: Pixels) -> tuple[Float[Tensor, "b e"], Float[Tensor, "b n e"]]:
        tokens, places = project_patches(self.model, Image(pixels=pixels))
        return self.model.embed_image(tokens), places


class MemoryGraph(GraphModule):
    """The image's states, computed once for all texts about it."""

    outputs = ("image_states",)

    def forward(self, pixels: Pixels) -> Float[Tensor, "b n d"]:
        return self.model.encode_image(Image(pixels=pixels)).states


class PairGraph(GraphModule):
    """head: the objective itm."""

    outputs = ("match_logits",)

    def forward(self, image_states: Float[Tensor, "b n d"], ids: Ids, mask: Mask) -> Float[Tensor, "b 2"]:
        return apply_head(self.head.head, _fuse(self.model, image_states, ids, mask).pooled)  # type: ignore[union-attr,arg-type]


class AnswerGraph(GraphModule):
    """head: the task vqa with a classifier."""

    outputs = ("answer_logits",)

    def forward(self, image_states: Float[Tensor, "b n d"], ids: Ids, mask: Mask) -> Float[Tensor, "b a"]:
        return apply_head(self.head.classifier, _fuse(self.model, image_states, ids, mask).pooled)  # type: ignore[union-attr,arg-type]


class ClassifierGraph(GraphModule):
    """head: the task classification."""

    outputs = ("class_logits",)

    def forward(self, pixels: Pixels) -> Float[Tensor, "b c"]:
        return self.head.logits(self.model, _feature(self.model, pixels, self.head.kind))  # type: ignore[union-attr,operator,arg-type]


class ProbeGraph(GraphModule):
    """head: the task probe or prompts, with a fitted linear classifier."""

    outputs = ("class_logits",)

    def forward(self, pixels: Pixels) -> Float[Tensor, "b c"]:
        head: Any = self.head
        feature = to_float32(_feature(self.model, pixels, head.kind))
        if head.scaling == "unit":
            feature = nn.functional.normalize(feature, dim=1)
        return nn.functional.linear(feature, head.head_weight.to(feature), head.head_bias.to(feature))


class PrefillGraph(GraphModule):
    """The first token of a caption, and the cache: what the tokens so far are to the decoder, and the image."""

    def __init__(self, model: VisionLanguageModel, head: nn.Module | None = None) -> None:
        super().__init__(model, head)
        self.outputs = ("logits", *cache_names(model.decoder))

    def forward(self, image_states: Float[Tensor, "b n d"], ids: Ids) -> tuple[Tensor, ...]:
        memory = Tokens(states=image_states, pooled=image_states[:, 0])
        return _first_step(self.model.part("decoder"), memory, ids)


class AnswerPrefillGraph(GraphModule):
    """The first token of an answer; its memory is the question fused with the image."""

    def __init__(self, model: VisionLanguageModel, head: nn.Module | None = None) -> None:
        super().__init__(model, head)
        self.outputs = ("logits", *cache_names(model.decoder), "memory_mask")

    def forward(
        self,
        image_states: Float[Tensor, "b n d"],
        question_ids: Int[Tensor, "b q"],
        question_mask: Bool[Tensor, "b q"],
        ids: Ids,
    ) -> tuple[Tensor, ...]:
        fused = _fuse(self.model, image_states, question_ids, question_mask)
        mask = torch.ones_like(fused.states[..., 0], dtype=torch.bool) if fused.mask is None else fused.mask
        return (*_first_step(self.model.part("decoder"), fused, ids), mask.clone())


class StepGraph(GraphModule):
    """The next token of a `CausalDecoder`; all tensors have one row for each row of ids."""

    outputs = ("logits", "next_past")

    def forward(
        self, ids: Int[Tensor, "r 1"], past: Float[Tensor, "r l two h n k"], memory: Float[Tensor, "r l two h m k"]
    ) -> tuple[Tensor, Tensor]:
        return _next_step(self.model.part("decoder"), ids, past, memory, None)


class AnswerStepGraph(GraphModule):
    """As `StepGraph`, after `AnswerPrefillGraph`."""

    outputs = ("logits", "next_past")

    def forward(
        self,
        ids: Int[Tensor, "r 1"],
        past: Float[Tensor, "r l two h n k"],
        memory: Float[Tensor, "r l two h m k"],
        memory_mask: Bool[Tensor, "r m"],
    ) -> tuple[Tensor, Tensor]:
        return _next_step(self.model.part("decoder"), ids, past, memory, memory_mask)


class CocaStepGraph(GraphModule):
    """The next token of a `CocaDecoder`, which reads all tokens again in each step."""

    outputs = ("logits", "next_past")

    def forward(
        self, ids: Int[Tensor, "r 1"], past: Int[Tensor, "r n"], memory: Float[Tensor, "r m d"]
    ) -> tuple[Tensor, Tensor]:
        cache = CocaCache(ids=past, memory=Tokens(states=memory, pooled=memory[:, 0]))
        logits, extended = self.model.part("decoder").step(ids, cache)
        return logits, extended.ids


class DetectGraph(GraphModule):
    """head: the task detection, of class vectors."""

    def __init__(self, model: VisionLanguageModel, head: nn.Module | None = None) -> None:
        super().__init__(model, head)
        masks = ("mask_embeds", "mask_pixels") if head.detector.pixels is not None else ()  # type: ignore[union-attr]
        self.outputs = ("boxes", "logits", *masks)

    def forward(self, pixels: Pixels) -> tuple[Tensor, ...]:
        return self.propose(pixels, None)

    def propose(self, pixels: Pixels, queries: Float[Tensor, "m e"] | None) -> tuple[Tensor, ...]:
        head: Any = self.head
        tokens = self.model.encode_image(Image(pixels=pixels), levels=head.levels)
        found = head.detector(tokens.map(to_float32), queries)
        return tuple(x for x in (found.boxes, found.logits, found.embeddings, found.pixels) if x is not None)


class DetectTextsGraph(DetectGraph):
    """head: the task detection, of texts."""

    def forward(self, pixels: Pixels, queries: Float[Tensor, "m e"]) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self.propose(pixels, queries)


class SegmentGraph(GraphModule):
    """head: the task segmentation, of class vectors."""

    outputs = ("class_logits",)

    def forward(self, pixels: Pixels) -> Float[Tensor, "b c _ _"]:
        return self.score(pixels, None)

    def score(self, pixels: Pixels, queries: Float[Tensor, "c e"] | None) -> Float[Tensor, "b c _ _"]:
        head: Any = self.head
        if head.segmenter is None:
            tokens, places = project_patches(self.model, Image(pixels=pixels))
            unit = nn.functional.normalize(places, dim=-1).transpose(1, 2).unflatten(2, tokens.grid)  # type: ignore[arg-type]
            return to_float32(text_logits(self.model, unit, queries))  # type: ignore[arg-type]
        return apply_head(head.segmenter, self.model.encode_image(Image(pixels=pixels), levels=head.levels), queries)


class SegmentTextsGraph(SegmentGraph):
    """head: the task segmentation, of texts."""

    def forward(self, pixels: Pixels, queries: Float[Tensor, "c e"]) -> Float[Tensor, "b c _ _"]:  # type: ignore[override]
        return self.score(pixels, queries)


def cache_names(decoder: nn.Module | None) -> tuple[str, ...]:
    """past: of the tokens, which grows.  memory: of the image."""
    return ("past", "memory") if isinstance(decoder, (CausalDecoder, CocaDecoder)) else ()


def _fuse(model: VisionLanguageModel, image_states: Tensor, ids: Tensor, mask: Tensor) -> Tokens:
    image = Tokens(states=image_states, pooled=image_states[:, 0])
    return model.fuse(model.encode_text(Text(ids=ids, mask=mask)), model.project_memory(image))


def _feature(model: VisionLanguageModel, pixels: Tensor, kind: str) -> Float[Tensor, "b d"]:
    tokens = model.encode_image(Image(pixels=pixels), pooled_only=True)
    return model.embed_image(tokens) if kind == "embed" else tokens.pooled


def _first_step(decoder: Any, memory: Tokens, ids: Tensor) -> tuple[Tensor, ...]:
    logits, cache = decoder.step(ids, decoder.empty_cache(memory))
    if isinstance(cache, CocaCache):
        return logits, cache.ids, cache.memory.states
    return logits, torch.stack(cache.layers, dim=1), torch.stack(cache.memory.layers, dim=1)


def _next_step(
    decoder: Any, ids: Tensor, past: Tensor, memory: Tensor, memory_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    attended = CrossAttentionCache(layers=list(memory.unbind(1)), mask=memory_mask)
    logits, extended = decoder.step(ids, DecoderCache(layers=list(past.unbind(1)), memory=attended))
    return logits, torch.stack(extended.layers, dim=1)
