"""Learned vectors in place of the words before a class name, through a frozen text tower (CoOp: Zhou et al., arXiv:2109.01134).

The class name stands at the end, before the words that the template has after it. The vectors take the place of the output of
the tower's token embedding, so any text tower has them, and they start as the embeddings of the template's own words: before the
first step a class has exactly its embedding of zero-shot classification. Shared by all classes ("unified context"), or of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Text, Tokens, require_finite
from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer

DEFAULT_TEMPLATE = "a photo of a {}"
DEVIATION = 0.02  # of vectors that start at random, the paper's
PROMPTS_AT_A_TIME = 1024


class LearnedPrompts(nn.Module):
    """template: with {} for the name.  vectors: how many, which start at random; None = as many as the template has tokens before
    the name, which they start as.  per_class: vectors of each name.  seed: of random ones.

    Raises UserError where the template has no words before the name, or a prompt is too long for the tower.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        tokenizer: Tokenizer,
        names: Sequence[str],
        *,
        template: str = DEFAULT_TEMPLATE,
        vectors: int | None = None,
        per_class: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        distinct = list(dict.fromkeys(names))  # classes of one name are equal, as in zero-shot classification
        self.position = [distinct.index(name) for name in names]
        words = _words_before(tokenizer, template)
        if vectors is None and not words:
            raise UserError(
                f"the template {template!r} of learned prompts needs words before {{}}, which the vectors start as; or give vectors"
            )
        length = vectors or len(words)
        embedding = token_embedding(model.part("text"))
        device = next(embedding.parameters()).device
        with torch.no_grad():
            if vectors is None:
                start = embedding(torch.tensor(words, device=device)[None])[0].clone()
            else:
                generator = torch.Generator().manual_seed(seed)
                width = embedding(torch.zeros(1, 1, dtype=torch.int64, device=device)).shape[-1]
                start = DEVIATION * torch.randn(length, width, generator=generator).to(device)
        groups = len(distinct) if per_class else 1
        self.context = nn.Parameter(start.repeat(groups, 1, 1))  # groups n d
        limit = getattr(model.text, "context_length", None) or tokenizer.context_length
        self.text = _with_placeholders(tokenizer, template, words, distinct, length, per_class, limit).to(device)

    def embed(self, model: VisionLanguageModel) -> Float[Tensor, "c e"]:
        """Unit-length embeddings of the classes, in float32."""
        rows = torch.arange(len(self.text.ids), device=self.text.ids.device)
        with _context_in_place(token_embedding(model.part("text")), self.context.flatten(0, 1)):
            parts = [
                model.embed_text(_encode(model, self.text.select(part))).float()
                for part in rows.split(PROMPTS_AT_A_TIME)
            ]
        embeds = F.normalize(require_finite(torch.cat(parts), "embeddings"), dim=-1)
        return embeds[self.position]


def token_embedding(tower: Any) -> nn.Module:
    """What maps the ids of tokens to vectors, of native towers and those of transformers, also within another tower.  Raises
    UserError where there is none."""
    if hasattr(tower, "tower"):
        return token_embedding(tower.tower)
    found = getattr(tower, "embedding", None)
    if found is None and hasattr(tower, "backbone"):
        found = tower.backbone.get_input_embeddings()
    if not isinstance(found, nn.Module):
        raise UserError(
            f"{type(tower).__name__} has no module `embedding` of its tokens, which prompts are learned through"
        )
    return found


def _encode(model: VisionLanguageModel, text: Text) -> Tokens:
    """A tower that keeps its features is run without them."""
    tower: Any = model.part("text")
    tokens: Tokens = tower.encode_uncached(text) if hasattr(tower, "encode_uncached") else model.encode_text(text)
    return tokens


@contextmanager
def _context_in_place(embedding: nn.Module, context: Float[Tensor, "m d"]) -> Iterator[None]:
    """Id -1 - i stands for row i of the context. Negative ids are no token's, nor padding, nor the highest, where CLIP pools."""
    given: list[Tensor] = []

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given.append(inputs[0])
        return (inputs[0].clamp(min=0), *inputs[1:])

    def replace(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        ids = given.pop()
        vectors = F.embedding(
            (-1 - ids).clamp(min=0), context
        )  # whose gradient is summed in one order, that of indexing is not
        return torch.where(ids[..., None] < 0, vectors.to(output.dtype), output)

    handles = [embedding.register_forward_pre_hook(remember), embedding.register_forward_hook(replace)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _words_before(tokenizer: Tokenizer, template: str) -> list[int]:
    before, mark, _ = template.partition("{}")
    if not mark:
        raise UserError(
            f"the template {template!r} of learned prompts needs words before {{}}, and has no {{}} for the name"
        )
    (ids,) = tokenizer.encode([before.strip()])
    return ids


def _with_placeholders(
    tokenizer: Tokenizer,
    template: str,
    words: list[int],
    names: Sequence[str],
    vectors: int,
    per_class: bool,
    limit: int,
) -> Text:
    """The prompts' ids with negative ones in place of the words before the name."""
    full = tokenizer([template.replace("{}", name) for name in names])
    start, rows = int(tokenizer.add_start), []
    for index, name in enumerate(names):
        ids = full.ids[index][full.mask[index]].tolist()
        if ids[start : start + len(words)] != words:
            raise UserError(
                f"the words of {template!r} are tokens of their own no more before {name!r}: end them with a space"
            )
        first = -1 - vectors * index if per_class else -1
        rows.append([*ids[:start], *range(first, first - vectors, -1), *ids[start + len(words) :]])
    longest = max(map(len, rows))
    if longest > limit:
        raise UserError(f"a prompt of {longest} tokens is too long for a text tower of {limit}: learn fewer vectors")
    return tokenizer.join_rows(rows)
