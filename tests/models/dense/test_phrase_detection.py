"""Phrases as queries of a detector: rows in the order of the texts, the best places first."""

from __future__ import annotations

import pytest
import torch

from tests.towers import ToyText
from vlp.models.dense.boxes import to_corners
from vlp.models.dense.detector import PlaceDetector
from vlp.models.dense.phrase_detection import detect_phrases
from vlp.models.projection.linear import LinearProjection
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Text, Tokens


def _model() -> VisionLanguageModel:
    torch.manual_seed(0)
    vision = torch.nn.Identity()
    vision.width = 8  # type: ignore[assignment]
    projection = LinearProjection(image_width=8, text_width=6, width=5)
    return VisionLanguageModel(vision=vision, text=ToyText(), projection=projection).eval()


TEXT = Text(ids=torch.tensor([[3, 4], [5, 6], [7, 8]]), mask=torch.ones(3, 2, dtype=torch.bool))
OWNER = torch.tensor([0, 0, 2])  # the second image has no phrase
STATES = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
TOKENS = Tokens(states=STATES, pooled=STATES[:, 0], grid=(2, 3))
IMAGE = Image(pixels=torch.zeros(3, 3, 8, 12, dtype=torch.uint8))


def test_each_phrase_gets_the_boxes_of_its_own_image() -> None:
    model, detector = _model(), PlaceDetector(states_width=8, classes=None, embed_width=5).eval()
    with torch.no_grad():
        corners, scores = detect_phrases(model, detector, IMAGE, TOKENS, TEXT, OWNER, count=4)
        proposals = detector(TOKENS, model.embed_text(model.encode_text(TEXT)))
    assert corners.shape == (3, 4, 4)
    for row, image in enumerate(OWNER.tolist()):
        best = proposals.logits[image, :, row].argsort(descending=True)[:4]
        torch.testing.assert_close(corners[row], to_corners(proposals.boxes[image, best].double()).clamp(0, 1))
        torch.testing.assert_close(scores[row], proposals.logits[image, best, row].sigmoid())


def test_padding_is_no_place_and_boxes_are_of_the_image_without_it() -> None:
    model, detector = _model(), PlaceDetector(states_width=8, classes=None, embed_width=5).eval()
    sizes = torch.tensor([[8, 8], [8, 12], [4, 12]])
    with torch.no_grad():
        padded = Image(pixels=IMAGE.pixels, size=sizes)
        corners, scores = detect_phrases(model, detector, padded, TOKENS, TEXT, OWNER, count=6)
        every, _ = detect_phrases(model, detector, IMAGE, TOKENS, TEXT, OWNER, count=6)
    assert (scores[:2] == 0).sum(1).tolist() == [2, 2]  # the third column is padding
    assert int((scores[2] == 0).sum()) == 3  # so is the second row
    assert not torch.equal(corners, every)


def test_a_detector_of_class_vectors_takes_no_phrases() -> None:
    detector = PlaceDetector(states_width=8, classes=4, embed_width=5)
    with pytest.raises(ValueError, match="names=texts"):
        detect_phrases(_model(), detector, IMAGE, TOKENS, TEXT, OWNER, count=4)
