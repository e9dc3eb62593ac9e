"""The images and texts of a split as they come in batches: each rank keeps its own on the CPU, and they are joined at the end,
so one process and many see the same whatever the sizes. A rank may have none."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlp import distributed
from vlp.models.cascade import Packed
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Tokens

KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of the towers' states


class Gallery:
    """tokens: the towers' states are kept too, for a second stage."""

    def __init__(self, *, tokens: bool) -> None:
        self.tokens = tokens
        self._image: list[Tensor] = []
        self._text: list[Tensor] = []
        self._id: list[Tensor] = []
        self._text_id: list[Tensor] = []
        self._image_tokens: list[Tokens] = []
        self._text_tokens: list[Tokens] = []

    def add(self, batch: Batch, features: Features) -> None:
        assert features.owner is not None
        if features.image_embed is not None and features.text_embed is not None:
            self._image.append(features.image_embed.detach().float().cpu())
            self._text.append(features.text_embed.detach().float().cpu())
        if self.tokens:
            assert features.image is not None
            assert features.text is not None
            self._image_tokens.append(_on_cpu(features.image))
            self._text_tokens.append(_on_cpu(features.text))
        self._id.append(batch.id.cpu())
        self._text_id.append(batch.id[features.owner].cpu())

    def ids(self, device: torch.device) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
        """Of all ranks' images, and of each text's image."""
        return _join_ids(self._id, device), _join_ids(self._text_id, device)

    def embeds(self, device: torch.device) -> tuple[Float[Tensor, "n e"], Float[Tensor, "m e"]]:
        """Of all ranks' images and texts."""
        return _join(self._image, device), _join(self._text, device)

    def packed(self, device: torch.device) -> tuple[Packed, Packed]:
        """States of this rank's images, and of all ranks' texts."""
        return Packed.of(self._image_tokens), _everywhere(Packed.of(self._text_tokens), device)

    def share(self, pairs: Int[Tensor, "p 2"], device: torch.device) -> Int[Tensor, "q 2"]:
        """Those of (image, text) pairs, sorted by image, that are of this rank's images, counted from its first one. What
        the ranks make of their shares stands in the order of the pairs when it is gathered."""
        own = sum(map(len, self._id))
        start = distributed.offset(torch.zeros(own, device=device))
        mine = (pairs[:, 0] >= start) & (pairs[:, 0] < start + own)
        return pairs[mine] - torch.tensor([start, 0])


def scoring_device(model: VisionLanguageModel) -> torch.device:
    """The model's, but for Apple's, which has no float64."""
    return next((p.device for p in model.parameters() if p.device.type != "mps"), torch.device("cpu"))


def _on_cpu(tokens: Tokens) -> Tokens:
    return dataclasses.replace(tokens, states=tokens.states.detach(), pooled=tokens.pooled.detach()).to("cpu")


def _everywhere(text: Packed, device: torch.device) -> Packed:
    """All ranks' rows on every rank."""
    lengths = distributed.gather(text.lengths().to(device)).cpu()
    width = int(distributed.gather(torch.tensor([text.states.shape[1]], device=device)).max())
    known = bool(distributed.gather(torch.tensor([text.ids is not None or not len(text)], device=device)).all())
    own = KINDS.index(text.states.dtype) if len(text) else -1  # which a rank without texts learns from the others
    kind = KINDS[int(distributed.gather(torch.tensor([own], device=device)).max())]
    states = text.states if len(text) else torch.zeros(0, width, dtype=kind)
    ids = text.ids if text.ids is not None else torch.zeros(0, dtype=torch.int64)
    return Packed(
        states=distributed.gather(states.to(device)).cpu(),
        ends=lengths.cumsum(0),
        ids=distributed.gather(ids.to(device)).cpu() if known else None,
    )


def _join(parts: list[Float[Tensor, "_ e"]], device: torch.device) -> Float[Tensor, "n e"]:
    """All ranks' rows; a rank that saw no batch learns the width from the others, since gathering needs it."""
    width = distributed.gather(torch.tensor([parts[0].shape[1] if parts else 0], device=device)).max()
    own = torch.cat(parts) if parts else torch.zeros(0, int(width), dtype=torch.float32)
    return distributed.gather(own.to(device))


def _join_ids(parts: list[Int[Tensor, " _"]], device: torch.device) -> Int[Tensor, " n"]:
    own = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
    return distributed.gather(own.to(device))
