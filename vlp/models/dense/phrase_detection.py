"""Phrases as queries of an open-vocabulary detection head: of each phrase the places that answer it best, and their boxes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlp.models.dense.boxes import to_corners
from vlp.models.dense.detector import Detector
from vlp.models.dense.places import image_extent, places_on_image
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Text, Tokens, require_finite
from vlp.system.errors import UserError


def detect_phrases(
    model: VisionLanguageModel,
    detector: Detector,
    image: Image,
    tokens: Tokens,
    text: Text,
    owner: Int[Tensor, " r"],
    *,
    count: int,
) -> tuple[Float[Tensor, "r k 4"], Float[Tensor, "r k"]]:
    """Boxes (left, top, right, bottom in [0, 1] of the image) and probabilities, best first, of each text about its image.

    tokens: the tower's, of the images.  owner: the image of each text.  count: boxes of a phrase, at most one of each place.
    Raises UserError for a detector of class vectors."""
    if not hasattr(detector.scores, "embed"):
        raise UserError("this detector scores boxes by class vectors and takes no phrases: train one with names=texts")
    extent = image_extent(image, tokens.states.double())
    corners: list[Tensor] = []
    scores: list[Tensor] = []
    embed = model.embed_text(model.encode_text(text))
    for row in range(len(image.pixels)):  # images have different numbers of phrases
        own = owner == row
        if not bool(own.any()):
            continue
        proposals = detector(tokens.select([row]), embed[own])
        logits = require_finite(proposals.logits[0].T.float(), "logits of the boxes")
        if image.size is not None:
            logits = logits.masked_fill(~places_on_image(proposals.grid, extent[row : row + 1]), -torch.inf)
        best = logits.topk(min(count, logits.shape[1]))
        boxes = to_corners(proposals.boxes[0].double())[best.indices] / extent[row].repeat(2)
        corners.append(boxes.clamp(0, 1))
        scores.append(best.values.sigmoid())
    return torch.cat(corners), torch.cat(scores)
