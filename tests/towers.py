"""Small towers, a model and a batch for tests of the code that uses them, in any float type."""

from __future__ import annotations

import torch
from torch import nn

from vlp.models.decoder.causal import CausalDecoder
from vlp.models.fusion.cross import CrossFusion
from vlp.models.fusion.late import LateFusion
from vlp.models.projection.linear import LinearProjection
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Image, Text, Tokens


class ToyVision(nn.Module):
    def __init__(self, *, size: int = 4, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.image_size = width, size
        self.net = nn.Sequential(nn.Linear(3 * size * size, 16), nn.Dropout(dropout), nn.GELU(), nn.Linear(16, width))

    def forward(self, image: Image) -> Tokens:
        pixels = image.pixels / 255 if image.pixels.dtype == torch.uint8 else image.pixels
        pooled = self.net(pixels.flatten(1).to(self.net[0].weight.dtype))
        return Tokens(states=pooled[:, None], pooled=pooled)


class ToyText(nn.Module):
    def __init__(self, *, vocabulary: int = 30, width: int = 6) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(vocabulary, width)
        self.net = nn.Linear(width, width)

    def forward(self, text: Text) -> Tokens:
        states = self.net(self.embedding(text.ids)).tanh() * text.mask[..., None]
        return Tokens(states=states, mask=text.mask, pooled=states.sum(1) / text.mask.sum(1, keepdim=True).clamp(min=1))


def toy_model(
    *, seed: int = 0, logit_bias: float | None = None, dropout: float = 0.0, fused: bool = False, late: bool = False
) -> VisionLanguageModel:
    torch.manual_seed(seed)
    projection = LinearProjection(image_width=8, text_width=6, width=5, logit_bias=logit_bias)
    fusion: nn.Module | None = None
    if late:
        fusion = LateFusion(image_width=8, text_width=6, width=5, hidden_width=7)
    if fused:
        fusion = CrossFusion(image_width=8, text_width=6, width=4, layers=1, heads=2, hidden_width=6, dropout=0.0)
    return VisionLanguageModel(vision=ToyVision(dropout=dropout), text=ToyText(), projection=projection, fusion=fusion)


def toy_batch(rows: slice = slice(None), *, size: int = 12, same_image: bool = True) -> Batch:
    """Rows of one fixed batch in float64; with `same_image`, samples 1 and 7 are captions of one image."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.arange(size)
    if same_image:
        ids[7] = ids[1]
    length = torch.randint(2, 7, (size,), generator=generator)
    mask = torch.arange(6)[None, :] < length[:, None]
    tokens = torch.randint(1, 30, (size, 6), generator=generator) * mask
    pixels = torch.rand(size, 3, 4, 4, generator=generator, dtype=torch.float64)
    pixels = pixels[ids]
    return Batch(
        id=ids[rows],
        sample=torch.arange(size)[rows],
        seed=torch.arange(size)[rows],
        image=Image(pixels=pixels[rows]),
        caption=Text(ids=tokens, mask=mask).select(rows),
        also_true=((ids[:, None] + torch.tensor([2, 5])) % size)[rows, None],
    )


def toy_with_decoder(vocabulary_size: int) -> VisionLanguageModel:
    """In float64."""
    torch.manual_seed(0)
    fusion = CrossFusion(image_width=8, text_width=6, width=4, layers=1, heads=2, hidden_width=6, dropout=0.0)
    decoder = CausalDecoder(
        vocabulary_size=vocabulary_size, memory_width=4, width=8, layers=1, heads=2, context_length=16, dropout=0.0
    )
    return VisionLanguageModel(vision=ToyVision(), text=ToyText(), fusion=fusion, decoder=decoder).double()
