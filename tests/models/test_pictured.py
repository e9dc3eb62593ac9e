"""Texts with and without pictures in one batch: each has the states that it has alone."""

from __future__ import annotations

import pytest
import torch

from tests.towers import ToyText, ToyVision
from vlp.models.decoder.causal import CausalDecoder
from vlp.models.fusion.cross import CrossFusion
from vlp.models.pictured import encode_source, reach_parameters
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Text


def model(width: int = 6) -> VisionLanguageModel:
    torch.manual_seed(0)
    fusion = CrossFusion(image_width=8, text_width=6, width=width, layers=1, heads=2, hidden_width=6, dropout=0.0)
    decoder = CausalDecoder(
        vocabulary_size=30, memory_width=width, width=8, layers=1, heads=2, context_length=8, dropout=0.0
    )
    return VisionLanguageModel(vision=ToyVision(), text=ToyText(), fusion=fusion, decoder=decoder).double()


def inputs() -> tuple[Text, Image]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(5)[None] < torch.tensor([[5], [2], [4]])
    ids = torch.randint(1, 30, (3, 5), generator=generator) * mask
    return Text(ids=ids, mask=mask), Image(pixels=torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64))


def test_rows_are_fused_with_their_own_pictures_and_the_others_pass_the_fusion_by() -> None:
    translator, (text, image) = model(), inputs()
    memory = translator.project_memory(translator.encode_image(image))
    source = encode_source(translator, text, memory, torch.tensor([True, False, True]))
    with_both = translator.fuse(translator.encode_text(text.select([0, 2])), memory)
    torch.testing.assert_close(source.states[[0, 2]], with_both.states, rtol=0, atol=1e-14)
    torch.testing.assert_close(source.states[1], translator.encode_text(text).states[1], rtol=0, atol=0)
    assert torch.equal(source.mask, text.mask)


def test_all_or_none_have_a_picture() -> None:
    translator, (text, image) = model(), inputs()
    alone = encode_source(translator, text, None)
    torch.testing.assert_close(alone.states, translator.encode_text(text).states, rtol=0, atol=0)
    memory = translator.project_memory(translator.encode_image(image))
    pair = text.select([0, 1])
    for pictured in (None, torch.tensor([True, True])):
        source = encode_source(translator, pair, memory, pictured)
        torch.testing.assert_close(source.states, translator.fuse(translator.encode_text(pair), memory).states)


def test_widths_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"states have width 6 and the decoder reads 4: set model\.text\.width"):
        encode_source(model(width=4), inputs()[0], None)


def test_a_model_of_texts_alone_reads_its_text_tower() -> None:
    seen: list[int] = []

    def decoder(*, memory_width: int) -> CausalDecoder:
        seen.append(memory_width)
        return CausalDecoder(vocabulary_size=30, memory_width=memory_width, width=8, layers=1, heads=2)

    VisionLanguageModel(text=ToyText(), decoder=decoder)
    assert seen == [6]


def test_a_batch_without_pictures_reaches_every_parameter_with_a_gradient_of_0() -> None:
    translator = model()
    translator.vision.net[0].weight.requires_grad_(False)
    reach_parameters(translator).backward()
    assert translator.vision.net[0].weight.grad is None
    for part in (translator.vision.net[3], translator.fusion):
        assert all(p.grad is not None and not p.grad.any() for p in part.parameters())
