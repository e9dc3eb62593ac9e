"""A decoder's graphs, prefill and step, as generation uses them; and the probability of texts that are known.

The cache is what prefill gives beside the logits. Tensors that step gives again, as next_<name>, change with each token and have a
row for each text; the others are of the images, with a row for each image, or, where the graph wants it, repeated for its texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from vlp.deploy.runtime.equal_inputs import require_finite
from vlp.deploy.runtime.generate import log_softmax
from vlp.deploy.runtime.graphs import Graphs

_NEXT = "next_"


@dataclass(frozen=True, kw_only=True)
class GraphCache:
    """texts: [r …].  memory: of the images.  repeat: whether memory has a row for each text too."""

    texts: Mapping[str, np.ndarray]
    memory: Mapping[str, np.ndarray]
    repeat: bool

    def select(self, index: Int[np.ndarray, " s"]) -> GraphCache:
        """Rows by index; each must stay with its own image."""
        rows = len(next(iter(self.texts.values())))
        texts = {name: tensor[index] for name, tensor in self.texts.items()}
        memory = self.memory
        if self.repeat and len(index) != rows:  # else each row takes the place of another one of its image
            memory = {name: tensor[index] for name, tensor in memory.items()}
        return GraphCache(texts=texts, memory=memory, repeat=self.repeat)

    def of_images(self, index: Int[np.ndarray, " s"]) -> GraphCache:
        """Of some images, as long as each has one text."""
        texts, memory = ({name: x[index] for name, x in tensors.items()} for tensors in (self.texts, self.memory))
        return GraphCache(texts=texts, memory=memory, repeat=self.repeat)


class GraphDecoder:
    """kind: caption or answer.  feeds: of prefill, beside `ids`: pixels, and of answers the questions."""

    def __init__(self, graphs: Graphs, kind: str, feeds: Mapping[str, np.ndarray]) -> None:
        self.graphs, self.feeds = graphs, feeds
        own = kind == "answer"
        self.prefill = "answer_prefill" if own else "prefill"
        self.next = "answer_step" if own and "answer_step" in graphs else "step"
        decoder = graphs.manifest.decoder
        assert decoder is not None  # the manifest is checked
        self.repeat = decoder.repeat_answer_memory if own else decoder.repeat_memory

    def start(self, ids: Int[np.ndarray, "b n"]) -> tuple[Float[np.ndarray, "b v"], GraphCache]:
        outputs = self.graphs.run(self.prefill, {**self.feeds, "ids": ids})
        changing = {name.removeprefix(_NEXT) for name in self.graphs[self.next].outputs if name.startswith(_NEXT)}
        texts = {name: tensor for name, tensor in outputs.items() if name in changing}
        memory = {name: tensor for name, tensor in outputs.items() if name not in {"logits", *changing}}
        return outputs["logits"], GraphCache(texts=texts, memory=memory, repeat=self.repeat)

    def step(self, ids: Int[np.ndarray, "r 1"], cache: GraphCache) -> tuple[Float[np.ndarray, "r v"], GraphCache]:
        outputs = self.graphs.run(self.next, {**cache.texts, **cache.memory, "ids": ids})
        texts = {name: outputs[_NEXT + name] for name in cache.texts}
        return outputs["logits"], GraphCache(texts=texts, memory=cache.memory, repeat=cache.repeat)


def token_losses(
    logits: Float[np.ndarray, "r v"], token: Int[np.ndarray, " r"], *, label_smoothing: float = 0.0
) -> Float[np.ndarray, " r"]:
    """Cross-entropy of each row's token, smoothed as torch does."""
    log_probability = log_softmax(logits)
    loss = -np.take_along_axis(log_probability, token[:, None], 1)[:, 0]
    return (1 - label_smoothing) * loss - label_smoothing * log_probability.mean(1) if label_smoothing else loss


def text_losses(
    decoder: GraphDecoder,
    first: Float[np.ndarray, "r v"],
    cache: GraphCache,
    ids: Int[np.ndarray, "r t"],
    mask: Bool[np.ndarray, "r t"],
    *,
    label_smoothing: float = 0.0,
) -> Float[np.ndarray, " r"]:
    """The sum of the losses of all real tokens but the start.  first, cache: of the start token, see `GraphDecoder.start`."""
    total, logits = np.zeros(len(ids), dtype=np.float32), first
    for position in range(1, ids.shape[1]):
        real = mask[:, position]
        if not real.any():
            break
        logits = require_finite(logits, "logits of the tokens")
        losses = token_losses(logits, ids[:, position], label_smoothing=label_smoothing)
        total += np.where(real, losses, 0)
        if position + 1 < ids.shape[1] and mask[:, position + 1].any():
            logits, cache = decoder.step(ids[:, position : position + 1], cache)
    return total
