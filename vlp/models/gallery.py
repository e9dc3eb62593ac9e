"""The images and texts of a split, batch by batch: each rank keeps those of its batches on the CPU, and they are joined at
the end, so the result does not depend on the number of processes or the batch size. A rank may have none. Equal inputs have
equal embeddings and scores (`vlp.models.equal_inputs`)."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlp import distributed
from vlp.models.equal_inputs import EmbeddingStore
from vlp.models.features import flatten_captions
from vlp.models.reranking import PackedTokens
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Tokens

STATE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of the towers' states


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
        self._text.add(features.text_embed if contrastive else None, flatten_captions(batch)[0])
        if self.tokens:
            assert features.image is not None
            assert features.text is not None
            self._image_tokens.append(_to_cpu(features.image))
            self._text_tokens.append(_to_cpu(features.text))
        self._id.append(batch.id.cpu())
        self._text_id.append(batch.id[features.owner].cpu())

    def gather_ids(self, device: torch.device) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
        """Of all ranks' images, and of each text's image."""
        return _gather_ids(self._id, device), _gather_ids(self._text_id, device)

    def gather_embeddings(self, device: torch.device) -> tuple[Float[Tensor, "n e"], Float[Tensor, "m e"]]:
        """Of all ranks' images and texts."""
        return self._image.gather_embeddings(device), self._text.gather_embeddings(device)

    def gather_tokens(self, device: torch.device) -> tuple[PackedTokens, PackedTokens]:
        """States of this rank's images, and of all ranks' texts."""
        return PackedTokens.from_batches(self._image_tokens), _gather_packed(
            PackedTokens.from_batches(self._text_tokens), device
        )

    def unique_input_pairs(self, pairs: Int[Tensor, "p 2"]) -> tuple[Int[Tensor, "q 2"], Int[Tensor, " p"]]:
        """The different pairs of inputs among (image, text) pairs, sorted by image, and for each pair which of them it is."""
        image, text = self._image.first_equal_positions(), self._text.first_equal_positions()
        return torch.stack([image[pairs[:, 0]], text[pairs[:, 1]]], 1).unique(dim=0, return_inverse=True)

    def pairs_of_this_rank(self, pairs: Int[Tensor, "p 2"], device: torch.device) -> Int[Tensor, "q 2"]:
        """The (image, text) pairs, sorted by image, of this rank's images, which are counted from its first one. Results of
        the ranks are in the order of the pairs when they are gathered."""
        own = sum(map(len, self._id))
        start = distributed.row_offset(torch.zeros(own, device=device))
        mine = (pairs[:, 0] >= start) & (pairs[:, 0] < start + own)
        return pairs[mine] - torch.tensor([start, 0])


def scoring_device(model: VisionLanguageModel) -> torch.device:
    """The model's, except Apple's, which has no float64."""
    return next((p.device for p in model.parameters() if p.device.type != "mps"), torch.device("cpu"))


def _to_cpu(tokens: Tokens) -> Tokens:
    return dataclasses.replace(tokens, states=tokens.states.detach(), pooled=tokens.pooled.detach()).to("cpu")


def _gather_packed(text: PackedTokens, device: torch.device) -> PackedTokens:
    """All ranks' rows on every rank."""
    lengths = distributed.gather(text.lengths().to(device)).cpu()
    width = int(distributed.gather(torch.tensor([text.states.shape[1]], device=device)).max())
    known = bool(distributed.gather(torch.tensor([text.ids is not None or not len(text)], device=device)).all())
    # a rank without texts learns the type from the others
    dtype_index = STATE_DTYPES.index(text.states.dtype) if len(text) else -1
    dtype = STATE_DTYPES[int(distributed.gather(torch.tensor([dtype_index], device=device)).max())]
    states = text.states if len(text) else torch.zeros(0, width, dtype=dtype)
    ids = text.ids if text.ids is not None else torch.zeros(0, dtype=torch.int64)
    return PackedTokens(
        states=distributed.gather(states.to(device)).cpu(),
        ends=lengths.cumsum(0),
        ids=distributed.gather(ids.to(device)).cpu() if known else None,
    )


def _gather_ids(parts: list[Int[Tensor, " _"]], device: torch.device) -> Int[Tensor, " n"]:
    own = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
    return distributed.gather(own.to(device))
