"""Equal inputs of an evaluation get the very same embedding and score.

A processor's matrix product may give a row other last bits in a batch of one than in a batch of two, or in another row
of the batch. Captions that several images share would then tie in some batches and not in others, and figures would
depend on batch sizes and on the number of ranks. So what is ranked is computed once for each different input: the
result of the first one, in the order of the ranks, is used for all that are equal to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from vlp import distributed
from vlp.structures import Image, Text

_KEYS: WeakIdKeyDictionary = WeakIdKeyDictionary()  # of each record as long as it is in use


def content_keys(inputs: Image | Text) -> list[bytes]:
    """A digest of 16 bytes of each image's pixels (of its true size, where the batch is padded) or of each text's real
    tokens: equal for equal inputs, whatever batch they are in. Images of one shape [b c h w], texts [b t]. Computed once for each
    record, since several tasks compare the same batch."""
    if inputs not in _KEYS:
        _KEYS[inputs] = _digests(inputs)
    return _KEYS[inputs]


def _digests(inputs: Image | Text) -> list[bytes]:
    if isinstance(inputs, Image):
        pixels = inputs.pixels.cpu()
        sizes = [pixels.shape[-2:]] * len(pixels) if inputs.size is None else inputs.size.tolist()
        rows = [image[..., :height, :width].contiguous() for image, (height, width) in zip(pixels, sizes, strict=True)]
    else:
        rows = [ids[mask] for ids, mask in zip(inputs.ids.cpu(), inputs.mask.cpu(), strict=True)]
    headers = [f"{str(row.dtype).removeprefix('torch.')}{tuple(row.shape)}".encode() for row in rows]
    return [
        hashlib.blake2b(kind + row.numpy().tobytes(), digest_size=16).digest()
        for kind, row in zip(headers, rows, strict=True)
    ]


def first_equal_positions(keys: Sequence[bytes]) -> Int[Tensor, " n"]:
    """For each key the position of the first one that is equal to it."""
    first: dict[bytes, int] = {}
    return torch.tensor([first.setdefault(key, position) for position, key in enumerate(keys)], dtype=torch.int64)


class EmbeddingStore:
    """Embeddings of one kind of input from batch to batch; each rank keeps those of its batches on the CPU until they are joined.
    A rank may have none."""

    def __init__(self) -> None:
        self._embeds: list[Tensor] = []
        self._keys: list[bytes] = []

    def add(self, embeds: Float[Tensor, "b e"] | None, inputs: Image | Text) -> None:
        """embeds: None in all batches where a model has none, and only equality is asked for."""
        if embeds is not None:
            self._embeds.append(embeds.detach().float().cpu())
        self._keys += content_keys(inputs)

    def first_equal_positions(self) -> Int[Tensor, " n"]:
        """For each input of all ranks the position of the first one that is equal to it."""
        return first_equal_positions(distributed.gather_lists(self._keys))

    def gather_embeddings(self, device: torch.device) -> Float[Tensor, "n e"]:
        """Of all ranks in rank order, those of equal inputs equal."""
        first = self.first_equal_positions().to(device)
        # a rank that saw no batch learns the width from the others, since gathering needs it
        width = torch.tensor([self._embeds[0].shape[1] if self._embeds else 0], device=device)
        empty = torch.zeros(0, int(distributed.gather(width).max()))
        return distributed.gather(torch.cat([empty, *self._embeds]).to(device))[first]
