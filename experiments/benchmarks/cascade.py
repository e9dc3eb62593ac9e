"""Second-stage scores of a gallery of 1,000 images and 5,000 captions with ALBEF-base's layers: vlp against ALBEF's method.

    python experiments/benchmarks/cascade.py [--candidates 128] [--rounds 5] [--threads 2]

ALBEF fuses each image with its best 128 texts, and each text with its best 128 images, one query at a time, with padded
texts and with keys and values for every pair. The methods alternate. Each round measures one image query and five text
queries of ALBEF's method, and vlp on two images with all pairs that either direction needs. Seconds are scaled to the complete
gallery. Features are random, so the two directions share few pairs: with a trained model vlp scores fewer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks.albef_layers import albef_base, captions, padded_fusion
from vlp.models.reranking import PackedTokens, candidate_pairs, score_pairs
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import CrossAttentionCache, Text, Tokens

IMAGES, TEXTS, TOKENS = 1000, 5000, 257


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A model with random features, and the pairs that the second stage scores."""

    model: VisionLanguageModel
    head: nn.Module
    texts: Text
    text_states: Tensor  # [n t d], of the text tower, before the fusion
    image_candidates: Tensor  # [p 2]: (image, text) of each image query
    text_candidates: Tensor  # [p 2]: (text, image) of each text query
    pairs: Tensor  # [p 2]: (image, text) of both directions, each pair once

    def score(self, model: VisionLanguageModel, text: Tokens, memory: CrossAttentionCache | Tokens) -> Tensor:
        return self.head(model.fuse(text, memory).pooled)[:, 1]

    def albef_score(self, text_index: Tensor, images: Tensor) -> Tensor:
        mask = self.texts.mask[text_index]
        return self.head(padded_fusion(self.model, self.text_states[text_index], mask, images)[:, 0])[:, 1]


def random_gallery(count: int) -> Gallery:
    """count: candidates of each query."""
    model, head = albef_base(vision=False).eval(), nn.Linear(768, 2)
    texts = captions(TEXTS)
    text_states = torch.randn(TEXTS, 30, 768, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(1)
    image_embed, text_embed = (F.normalize(torch.randn(n, 256, generator=generator), dim=1) for n in (IMAGES, TEXTS))
    image_candidates = candidate_pairs(lambda first, last: image_embed[first:last] @ text_embed.T, IMAGES, count)
    text_candidates = candidate_pairs(lambda first, last: text_embed[first:last] @ image_embed.T, TEXTS, count)
    return Gallery(
        model=model,
        head=head,
        texts=texts,
        text_states=text_states,
        image_candidates=image_candidates,
        text_candidates=text_candidates,
        pairs=torch.cat([image_candidates, text_candidates.flip(1)]).unique(dim=0),
    )


def image_states(indices: Sequence[int]) -> Tensor:
    """Random states of these images, [n t d]; drawn when they are needed, as those of all images take 0.8 GB."""
    return torch.stack([torch.randn(TOKENS, 768, generator=torch.Generator().manual_seed(index)) for index in indices])


def measure_albef(gallery: Gallery, image: int, texts: Sequence[int]) -> tuple[float, dict[int, float]]:
    """Seconds for the gallery, by one image query and some text queries; scores of the image's candidates by text."""
    start = time.perf_counter()
    query_texts = gallery.image_candidates[gallery.image_candidates[:, 0] == image, 1]
    scores = gallery.albef_score(query_texts, image_states([image]).expand(len(query_texts), -1, -1))
    image_seconds = time.perf_counter() - start
    of_text = gallery.text_candidates
    stacks = [image_states(of_text[of_text[:, 0] == text, 1].tolist()) for text in texts]
    start = time.perf_counter()
    for text, stack in zip(texts, stacks, strict=True):
        gallery.albef_score(torch.full((len(stack),), text), stack)
    text_seconds = (time.perf_counter() - start) / len(texts)
    return image_seconds * IMAGES + text_seconds * TEXTS, dict(zip(query_texts.tolist(), scores.tolist(), strict=True))


def measure_vlp(gallery: Gallery, images: tuple[int, int]) -> tuple[float, dict[int, float]]:
    """Seconds for the gallery, by all pairs of two images; scores of the first image's pairs by text."""
    pairs = gallery.pairs[torch.isin(gallery.pairs[:, 0], torch.tensor(images))]
    texts, text_rows = pairs[:, 1].unique(return_inverse=True)
    rows = torch.stack([(pairs[:, 0] == images[1]).long(), text_rows], 1)
    states, text_states = image_states(images), gallery.text_states[texts]
    image = PackedTokens.from_batches([Tokens(states=states, pooled=states[:, 0])])
    text = PackedTokens.from_batches(
        [Tokens(states=text_states, pooled=text_states[:, 0], mask=gallery.texts.mask[texts])]
    )
    start = time.perf_counter()
    scores = score_pairs(gallery.model, gallery.score, image, text, rows, device=torch.device("cpu"))
    seconds = (time.perf_counter() - start) / len(pairs) * len(gallery.pairs)
    first = pairs[:, 0] == images[0]
    return seconds, dict(zip(pairs[first, 1].tolist(), scores[first].tolist(), strict=True))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    gallery = random_gallery(options.candidates)
    albef_pairs = (IMAGES + TEXTS) * options.candidates
    print(
        f"{IMAGES:,} images, {TEXTS:,} texts, {options.candidates} candidates: {albef_pairs:,} pairs with ALBEF's method, "
        f"{len(gallery.pairs):,} with vlp"
    )
    ratios, difference = [], 0.0
    for number in range(options.rounds):
        query = 7 * number
        albef_seconds, albef_scores = measure_albef(gallery, query, [13 * number + step for step in range(5)])
        vlp_seconds, vlp_scores = measure_vlp(gallery, (query, query + 500))
        difference = max(difference, *(abs(vlp_scores[text] - score) for text, score in albef_scores.items()))
        ratios.append(albef_seconds / vlp_seconds)
        print(
            f"round {number + 1}: ALBEF's method {albef_seconds / 60:.0f} min, vlp {vlp_seconds / 60:.1f} min, "
            f"ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); scores differ by at most "
        f"{difference:.1e}"
    )


if __name__ == "__main__":
    main()
