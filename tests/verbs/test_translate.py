"""Texts with and without pictures are translated as the task does; wrong numbers of pictures get a sentence."""

from __future__ import annotations

import PIL.Image
import pytest
import torch
from torch import nn

from tests.towers import ToyText, ToyVision
from tests.words import WordTokenizer
from vlp.data.transforms import EvalTransform
from vlp.models.decoder.causal import CausalDecoder
from vlp.models.fusion.cross import CrossFusion
from vlp.models.vlm import VisionLanguageModel
from vlp.predictor import Predictor
from vlp.tasks.translation import Translation

TEXTS = ["a red circle", "two blue square", "one green circle"]


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    fusion = CrossFusion(image_width=8, text_width=6, width=6, layers=1, heads=2, hidden_width=6, dropout=0.0)
    tokenizer = WordTokenizer()
    decoder = CausalDecoder(
        vocabulary_size=tokenizer.size, memory_width=6, width=8, layers=1, heads=2, context_length=16
    )
    model = VisionLanguageModel(vision=ToyVision(), text=ToyText(), fusion=fusion, decoder=decoder).eval()
    task = Translation(beams=2, max_length=8)
    return Predictor(
        model=model, objectives=nn.ModuleDict({"translation": task}).eval(), tokenizer=tokenizer,
        transform=EvalTransform(image_size=4), batch_size=2,
    )  # fmt: skip


def test_each_text_is_translated_with_its_own_picture_or_without(predictor: Predictor) -> None:
    pictures = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    found = predictor.translate(TEXTS, [pictures[0], None, pictures[1]])
    alone = predictor.translate(TEXTS)
    assert found[1] == alone[1] == predictor.translate(TEXTS[1:2], [None])[0]
    assert [found[0], found[2]] == [
        predictor.translate([text], [picture])[0] for text, picture in zip([TEXTS[0], TEXTS[2]], pictures, strict=True)
    ]


def test_one_picture_for_each_text(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="3 texts and 1 images: give one for each text, or None"):
        predictor.translate(TEXTS, [None])
    with pytest.raises(ValueError, match="texts must be a list"):
        predictor.translate("a red circle")
