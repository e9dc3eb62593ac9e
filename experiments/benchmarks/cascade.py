"""Second-stage scores of a gallery of 1,000 images and 5,000 captions with ALBEF-base's layers: vlp beside ALBEF's way.

    python experiments/benchmarks/cascade.py [--candidates 128] [--rounds 5] [--threads 2]

ALBEF fuses each image with its best 128 texts, and each text with its best 128 images, one query at a time, with padded
texts and keys and values for every pair. Both ways take turns; each round runs one image query and five text queries of
ALBEF's, and two images of vlp's with all pairs that either direction asks for. Seconds are scaled to the whole gallery.
Features are random, so the two directions share few pairs: with a trained model vlp scores fewer.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmarks.albef_layers import albef_base, captions, padded_fusion
from vlp.models.reranking import Packed, candidates, score_pairs
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Memory, Tokens

IMAGES, TEXTS, TOKENS = 1000, 5000, 257


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, head = albef_base(vision=False).eval(), nn.Linear(768, 2)
    texts = captions(TEXTS)
    states = torch.randn(
        TEXTS, 30, 768, generator=torch.Generator().manual_seed(2)
    )  # of the text tower, before the fusion
    generator = torch.Generator().manual_seed(1)
    image_embed, text_embed = (F.normalize(torch.randn(n, 256, generator=generator), dim=1) for n in (IMAGES, TEXTS))
    k = options.candidates
    to_texts = candidates(lambda a, b: image_embed[a:b] @ text_embed.T, IMAGES, k)
    to_images = candidates(lambda a, b: text_embed[a:b] @ image_embed.T, TEXTS, k)
    pairs = torch.cat([to_texts, to_images.flip(1)]).unique(dim=0)

    def image(index: int) -> torch.Tensor:
        return torch.randn(TOKENS, 768, generator=torch.Generator().manual_seed(index))

    def plain(text_index: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        fused = padded_fusion(model, states[text_index], texts.mask[text_index], images)
        return head(fused[:, 0])[:, 1]

    def score(model: VisionLanguageModel, text: Tokens, memory: Memory | Tokens) -> torch.Tensor:
        return head(model.fuse(text, memory).pooled)[:, 1]

    total = (IMAGES + TEXTS) * k
    print(
        f"{IMAGES:,} images, {TEXTS:,} texts, {k} candidates: {total:,} pairs for ALBEF's way, {len(pairs):,} for vlp"
    )
    ratios, worst = [], 0.0
    for round_ in range(options.rounds):
        query, words = 7 * round_, [13 * round_ + step for step in range(5)]
        start = time.perf_counter()
        wanted = to_texts[to_texts[:, 0] == query, 1]
        reference = plain(wanted, image(query).expand(k, -1, -1))
        by_image = time.perf_counter() - start
        stacks = [torch.stack([image(i) for i in to_images[to_images[:, 0] == word, 1].tolist()]) for word in words]
        start = time.perf_counter()
        for word, stack in zip(words, stacks, strict=True):
            plain(torch.full((k,), word), stack)
        theirs = by_image * IMAGES + (time.perf_counter() - start) / len(words) * TEXTS
        pictures = torch.tensor([query, query + 500])
        own = pairs[torch.isin(pairs[:, 0], pictures)].clone()
        own[:, 0] = (own[:, 0] == pictures[1]).long()
        both = torch.stack([image(i) for i in pictures.tolist()])
        every = torch.unique(own[:, 1])
        rows = Packed.of([Tokens(states=states[every], pooled=states[every][:, 0], mask=texts.mask[every])])
        own[:, 1] = torch.searchsorted(every, own[:, 1])
        packed = Packed.of([Tokens(states=both, pooled=both[:, 0])])
        start = time.perf_counter()
        found = score_pairs(model, score, packed, rows, own, device=torch.device("cpu"))
        ours = (time.perf_counter() - start) / len(own) * len(pairs)
        first = own[:, 0] == 0
        position = {int(text): place for place, text in enumerate(every[own[first, 1]].tolist())}
        same = torch.stack([found[first][position[text]] for text in wanted.tolist()])
        worst = max(worst, float((same - reference).abs().max()))
        ratios.append(theirs / ours)
        print(
            f"round {round_ + 1}: ALBEF's way {theirs / 60:.0f} min, vlp {ours / 60:.1f} min, ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); scores differ by {worst:.1e} at most"
    )


if __name__ == "__main__":
    main()
