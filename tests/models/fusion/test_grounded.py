"""The text tower's own layers as the fusion, against a cross-attention fusion of the same weights."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from vlp.models.fusion.cross import CrossFusion
from vlp.models.fusion.grounded import GroundedFusion
from vlp.models.momentum import MomentumCopy
from vlp.models.text.bert import BertText
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Text, Tokens

MASK = torch.arange(6)[None] < torch.tensor([[4], [6]])
WORDS = Text(ids=torch.randint(1, 30, (2, 6), generator=torch.Generator().manual_seed(0)) * MASK, mask=MASK)


def model(start_id: int | None = None, memory_width: int | None = 5) -> VisionLanguageModel:
    torch.manual_seed(0)
    text = BertText(
        vocabulary_size=30, width=16, layers=2, heads=2, dropout=0.0, context_length=8, token_types=0,
        memory_width=memory_width,
    )  # fmt: skip
    vision = nn.Identity()
    vision.width = 5
    fusion = GroundedFusion(image_width=5, text_width=16, start_id=start_id)
    made = VisionLanguageModel(vision=vision, text=text, fusion=fusion)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def image() -> Tokens:
    states = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    return Tokens(states=states, pooled=states[:, 0])


@torch.no_grad()
def test_equals_a_cross_fusion_on_the_embedded_words() -> None:
    ours = model(start_id=29)
    cross = CrossFusion(image_width=5, text_width=16, width=16, layers=2, heads=2, dropout=0.0).eval()
    cross.load_state_dict({key: value for key, value in ours.text.state_dict().items() if key.startswith("blocks.")})
    embedder = deepcopy(ours.text)
    embedder.blocks = nn.ModuleList()
    started = Text(ids=WORDS.ids.clone().index_fill_(1, torch.tensor([0]), 29), mask=MASK)
    expected = cross(embedder(started), image())
    for image_input in (image(), ours.project_memory(image())):
        found = ours.fuse(ours.encode_text(WORDS), image_input)
        torch.testing.assert_close(found.states, expected.states)
        torch.testing.assert_close(found.pooled, expected.pooled)


def test_has_no_parameters_of_its_own_and_trains_the_towers() -> None:
    ours = model()
    assert not list(ours.fusion.state_dict())
    ours.fuse(ours.encode_text(WORDS), image()).states.sum().backward()
    assert [name for name, p in ours.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_the_momentum_copy_has_layers_of_its_own() -> None:
    ours = model()
    copy = MomentumCopy(ours, {}, decay=0.9).copy_of(ours)
    before = copy.fuse(copy.encode_text(WORDS), image()).states
    ours.text.embedding.weight.zero_()
    ours.text.blocks[0].cross_attention.query.weight.zero_()
    assert torch.equal(copy.fuse(copy.encode_text(WORDS), image()).states, before)


def test_a_tower_without_cross_attention_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"BertText with model\.text\.memory_width=5"):
        model(memory_width=None)
