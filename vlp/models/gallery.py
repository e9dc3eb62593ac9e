"""The images and texts of a split as they come in batches: each rank keeps its own on the CPU, and they are joined at the end,
so one process and many see the same whatever the sizes. A rank may have none. Equal inputs are equal in all that is ranked
(`vlp.models.equal_inputs`)."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlp import distributed
from vlp.models.equal_inputs import EmbeddingStore
from vlp.models.features import caption_rows
from vlp.models.reranking import PackedTokens
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Tokens

KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of the towers' states


class Gallery:
    """tokens: the towers' states are kept too, for a second stage."""

    def __init__(self, *, tokens: bool) -> None:
        self.tokens = tokens
        self._image, self._text = EmbeddingStore(), EmbeddingStore()
        self._id: list[Tensor] = []
        self._text_id: list[Tensor] = []
        self._image_tokens: list[Tokens] = []
        self._text_tokens: list[Tokens] = []

    def add(self, batch: Batch, features: Features) -> None:
        assert features.owner is not None
        assert batch.image is not None
        contrastive = features.image_embed is not None and features.text_embed is not None
        self._image.add(features.image_embed if contrastive else None, batch.image)
        self._text.add(features.text_embed if contrastive else None, caption_rows(batch)[0])
        if self.tokens:
            assert features.image is not None
            assert features.text is not None
            self._image_tokens.append(_to_cpu(features.image))
            self._text_tokens.append(_to_cpu(features.text))
        self._id.append(batch.id.cpu())
        self._text_id.append(batch.id[features.owner].cpu())

    def ids(self, device: torch.device) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
        """Of all ranks' images, and of each text's image."""
        return _join_ids(self._id, device), _join_ids(self._text_id, device)

    def embeds(self, device: torch.device) -> tuple[Float[Tensor, "n e"], Float[Tensor, "m e"]]:
        """Of all ranks' images and texts."""
        return self._image.joined(device), self._text.joined(device)

    def packed(self, device: torch.device) -> tuple[PackedTokens, PackedTokens]:
        """States of this rank's images, and of all ranks' texts."""
        return PackedTokens.of(self._image_tokens), _gather_packed(PackedTokens.of(self._text_tokens), device)

    def distinct(self, pairs: Int[Tensor, "p 2"]) -> tuple[Int[Tensor, "q 2"], Int[Tensor, " p"]]:
        """The different pairs of inputs among (image, text) pairs, sorted by image, and for each pair which of them it is."""
        image, text = self._image.first_equal(), self._text.first_equal()
        return torch.stack([image[pairs[:, 0]], text[pairs[:, 1]]], 1).unique(dim=0, return_inverse=True)

    def share(self, pairs: Int[Tensor, "p 2"], device: torch.device) -> Int[Tensor, "q 2"]:
        """Those of (image, text) pairs, sorted by image, that are of this rank's images, counted from its first one. What
        the ranks make of their shares stands in the order of the pairs when it is gathered."""
        own = sum(map(len, self._id))
        start = distributed.row_offset(torch.zeros(own, device=device))
        mine = (pairs[:, 0] >= start) & (pairs[:, 0] < start + own)
        return pairs[mine] - torch.tensor([start, 0])


def scoring_device(model: VisionLanguageModel) -> torch.device:
    """The model's, but for Apple's, which has no float64."""
    return next((p.device for p in model.parameters() if p.device.type != "mps"), torch.device("cpu"))


def _to_cpu(tokens: Tokens) -> Tokens:
    return dataclasses.replace(tokens, states=tokens.states.detach(), pooled=tokens.pooled.detach()).to("cpu")


def _gather_packed(text: PackedTokens, device: torch.device) -> PackedTokens:
    """All ranks' rows on every rank."""
    lengths = distributed.gather(text.lengths().to(device)).cpu()
    width = int(distributed.gather(torch.tensor([text.states.shape[1]], device=device)).max())
    known = bool(distributed.gather(torch.tensor([text.ids is not None or not len(text)], device=device)).all())
    own = KINDS.index(text.states.dtype) if len(text) else -1  # which a rank without texts learns from the others
    kind = KINDS[int(distributed.gather(torch.tensor([own], device=device)).max())]
    states = text.states if len(text) else torch.zeros(0, width, dtype=kind)
    ids = text.ids if text.ids is not None else torch.zeros(0, dtype=torch.int64)
    return PackedTokens(
        states=distributed.gather(states.to(device)).cpu(),
        ends=lengths.cumsum(0),
        ids=distributed.gather(ids.to(device)).cpu() if known else None,
    )


def _join_ids(parts: list[Int[Tensor, " _"]], device: torch.device) -> Int[Tensor, " n"]:
    own = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
    return distributed.gather(own.to(device))
