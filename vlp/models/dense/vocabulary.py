"""Names as queries: a class is the mean of the embeddings of its prompts, and, in training, of a text tower that learns too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Text, require_finite
from vlp.system.errors import UserError


def prompt_templates(given: Sequence[str] | None) -> tuple[str, ...]:
    """With {} for the name; None = one."""
    return ("a {}",) if given is None else check_templates(given)


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Raises UserError for none, and for one without {}."""
    if not templates:
        raise UserError("queries of names need at least one template")
    if wrong := [template for template in templates if "{}" not in template]:
        raise UserError(f"templates: {wrong[0]!r} has no {{}} where the name goes")
    return tuple(templates)


class Vocabulary:
    """names: of the classes, in order.  templates: prompts with {} for the name."""

    def __init__(self, names: Sequence[str], *, tokenizer: Callable[..., Text], templates: Sequence[str]) -> None:
        if not names:
            raise UserError("queries of names need at least one name")
        self.names, self.templates = tuple(names), len(check_templates(templates))
        self._text = tokenizer([template.replace("{}", name) for name in names for template in templates])
        self._stored: Tensor | None = None

    def embed(self, model: VisionLanguageModel, chosen: Int[Tensor, " q"] | None = None) -> Float[Tensor, "q e"]:
        """Of unit length.  chosen: positions of the wanted names; None = all. Where no part of the text's side learns, all are
        embedded once, by the weights of the first call."""
        if not _is_trained(model):
            if self._stored is None:
                with torch.no_grad():
                    self._stored = self._embed_rows(model, torch.arange(len(self.names)))
            return self._stored if chosen is None else self._stored[chosen.to(self._stored.device)]
        return self._embed_rows(model, torch.arange(len(self.names)) if chosen is None else chosen.cpu())

    def _embed_rows(self, model: VisionLanguageModel, chosen: Int[Tensor, " q"]) -> Float[Tensor, "q e"]:
        rows = (chosen[:, None] * self.templates + torch.arange(self.templates)).flatten()
        text: Text = self._text.select(rows).to(next(model.parameters()).device)
        prompts = require_finite(model.embed_text(model.encode_text(text)), "embeddings of names")
        by_name = rearrange(prompts, "(q k) e -> q k e", k=self.templates)
        return F.normalize(reduce(by_name, "q k e -> q e", "mean"), dim=-1)


def _is_trained(model: VisionLanguageModel) -> bool:
    parts = (model.part("text"), model.part("projection"))
    return torch.is_grad_enabled() and any(p.requires_grad for p in chain(*(part.parameters() for part in parts)))


def draw_classes(
    present: Float[Tensor, " c"], candidates: Int[Tensor, " s"], negatives: int | None, *, seed: int
) -> Int[Tensor, " q"]:
    """Positions of the classes that a step asks for: those that some thing of it has, and `negatives` other candidates; None =
    all of them.

    present: above 0 where a thing of any process has the class.  seed: equal on all processes."""
    own = present.cpu() > 0
    others = candidates.cpu()[~own[candidates.cpu()]]
    if negatives is not None:
        others = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))[:negatives]]
    return torch.cat([own.nonzero()[:, 0], others]).sort().values
