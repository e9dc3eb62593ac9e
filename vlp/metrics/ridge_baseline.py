"""How far colours and words alone go in retrieval: the figure that a learned dual encoder must beat.

Images are 4x4x4 RGB histograms, texts are bags of words, and one ridge regression, fitted in closed form on training
pairs, predicts an image's mean bag from its histogram. Texts are then ranked by the cosine with the prediction.
Neither side knows where anything is or which word belongs to which, so nothing about binding can be learned.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vlp.system.errors import UserError

BINS = 4  # for each of the three colour channels


def colour_histogram(pixels: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 64"]:
    """Share of the pixels in each of the 4x4x4 bins of raw RGB."""
    levels = pixels.long() * BINS // 256
    index = ((levels[:, 0] * BINS + levels[:, 1]) * BINS + levels[:, 2]).flatten(1)
    counts = torch.zeros(len(pixels), BINS**3, dtype=torch.float64)
    return counts.scatter_add_(1, index, torch.ones_like(index, dtype=torch.float64)) / max(1, index.shape[1])


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def vocabulary(texts: Sequence[str], limit: int = 1000) -> dict[str, int]:
    """The most frequent words of the training captions, equally frequent ones in alphabetical order."""
    counts = Counter(word for text in texts for word in words(text))
    return {word: index for index, word in enumerate(sorted(counts, key=lambda word: (-counts[word], word))[:limit])}


def bag_of_words(texts: Sequence[str], vocabulary: Mapping[str, int]) -> Float[Tensor, "n v"]:
    """1 for each known word in a text, however often it occurs."""
    bags = torch.zeros(len(texts), len(vocabulary), dtype=torch.float64)
    for row, text in enumerate(texts):
        for word in words(text):
            if word in vocabulary:
                bags[row, vocabulary[word]] = 1
    return bags


def fit_ridge(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n v"], penalty: float = 1e-3
) -> tuple[Float[Tensor, "d v"], Float[Tensor, "1 d"], Float[Tensor, "1 v"]]:
    """Weights and the two means of the ridge regression of y on x; the penalty is per sample."""
    mean_x, mean_y = x.mean(0, keepdim=True), y.mean(0, keepdim=True)
    centred = x - mean_x
    gram = centred.T @ centred + penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, centred.T @ (y - mean_y)), mean_x, mean_y


def ridge_similarity(
    *,
    train_pixels: UInt8[Tensor, "n 3 h w"],
    train_captions: Sequence[Sequence[str]],
    pixels: UInt8[Tensor, "m 3 h2 w2"],
    captions: Sequence[str],
    penalty: float = 1e-5,
) -> Float[Tensor, "m t"]:
    """Cosine of each image's predicted words with each caption, both less the mean bag of the training captions."""
    if len(train_pixels) != len(train_captions) or not all(train_captions):
        raise UserError(
            f"the ridge baseline has {len(train_pixels)} training images and {len(train_captions)} lists of captions; "
            "give one list, not empty, for each image"
        )
    flat = [text for texts in train_captions for text in texts]
    known = vocabulary(flat)
    owner = torch.tensor([image for image, texts in enumerate(train_captions) for _ in texts])
    bags = bag_of_words(flat, known)
    sums = torch.zeros(len(train_captions), len(known), dtype=torch.float64).index_add_(0, owner, bags)
    mean_bags = sums / owner.bincount()[:, None]
    weights, mean_x, mean_y = fit_ridge(colour_histogram(train_pixels), mean_bags, penalty)
    predicted = (colour_histogram(pixels) - mean_x) @ weights
    centred = bag_of_words(captions, known) - mean_y
    return F.normalize(predicted, dim=-1) @ F.normalize(centred, dim=-1).T
