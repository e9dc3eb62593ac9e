"""A retrieval baseline of colours and words alone, which a trained dual encoder must exceed.

Images are 4x4x4 RGB histograms, texts are bags of words, and a ridge regression, fitted in closed form on training pairs,
predicts the mean bag of words of an image's captions from its histogram. Texts are ranked by the cosine with the prediction.
Positions and the binding of words to objects are unknown to it.
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


def split_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def build_vocabulary(texts: Sequence[str], limit: int = 1000) -> dict[str, int]:
    """The most frequent words of the training captions, equally frequent ones in alphabetical order."""
    counts = Counter(word for text in texts for word in split_words(text))
    return {word: index for index, word in enumerate(sorted(counts, key=lambda word: (-counts[word], word))[:limit])}


def bag_of_words(texts: Sequence[str], vocabulary: Mapping[str, int]) -> Float[Tensor, "n v"]:
    """1 for each word of the vocabulary in a text, however often it occurs."""
    bags = torch.zeros(len(texts), len(vocabulary), dtype=torch.float64)
    for row, text in enumerate(texts):
        for word in split_words(text):
            if word in vocabulary:
                bags[row, vocabulary[word]] = 1
    return bags


def fit_ridge(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n v"], penalty: float = 1e-3
) -> tuple[Float[Tensor, "d v"], Float[Tensor, "1 d"], Float[Tensor, "1 v"]]:
    """(weights, mean of x, mean of y) of the ridge regression of y on x; the penalty is for each sample."""
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
    """Cosine of each image's predicted words with each caption, both minus the mean bag of the training captions."""
    if len(train_pixels) != len(train_captions) or not all(train_captions):
        raise UserError(
            f"the ridge baseline has {len(train_pixels)} training images and {len(train_captions)} lists of captions; "
            "give one non-empty list for each image"
        )
    train_texts = [text for texts in train_captions for text in texts]
    vocabulary = build_vocabulary(train_texts)
    owner = torch.tensor([image for image, texts in enumerate(train_captions) for _ in texts])
    bags = bag_of_words(train_texts, vocabulary)
    sums = torch.zeros(len(train_captions), len(vocabulary), dtype=torch.float64).index_add_(0, owner, bags)
    mean_bags = sums / owner.bincount()[:, None]
    weights, mean_x, mean_y = fit_ridge(colour_histogram(train_pixels), mean_bags, penalty)
    predicted = (colour_histogram(pixels) - mean_x) @ weights
    centred = bag_of_words(captions, vocabulary) - mean_y
    return F.normalize(predicted, dim=-1) @ F.normalize(centred, dim=-1).T
