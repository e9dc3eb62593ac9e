"""One training step of contrast, matching and masked words with ALBEF-base's layers: vlp beside ALBEF's order of passes.

    python experiments/benchmarks/joint_step.py [--batch 8] [--rounds 5] [--threads 2]

ALBEF fuses matched pairs, then twice as many unmatched ones, then the masked texts, and projects the image's keys and
values in each of these; its texts are padded to the longest of the batch. Both sides use the same layers, weights, batch,
negatives and masked tokens, without momentum copy; the losses of both are printed. A step is forward and backward.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from experiments.benchmarks.albef_layers import albef_base, captions, padded_fusion, padded_text
from vlp.models.features import compute_features
from vlp.objectives.itc import ITC
from vlp.objectives.itm import ITM
from vlp.objectives.mlm import MLM, choose, corrupt
from vlp.random import mix_rows
from vlp.structures import Batch, Features, Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = albef_base().train()
    itc, itm, mlm = ITC(), ITM(width=768), MLM(width=768, vocabulary_size=30522)
    mlm.mask_id = 103
    index = torch.arange(options.batch)
    text = captions(options.batch).select(slice(None))
    pixels = torch.randint(0, 256, (options.batch, 3, 256, 256), dtype=torch.uint8)
    batch = Batch(id=index, sample=index, seed=index, image=Image(pixels=pixels), caption=text)
    parameters = [*model.parameters(), *itm.parameters(), *mlm.parameters()]
    seeds = mix_rows(batch.seed, torch.zeros_like(batch.seed))
    chosen = choose(text, seeds, mlm.special, None, mlm.share)
    masked = corrupt(text, chosen, seeds, 103, 30522)

    def ours() -> torch.Tensor:
        features = compute_features(model, batch, {*itc.uses, *itm.uses, *mlm.uses})
        return torch.stack([objective(model, batch, features).value for objective in (itc, itm, mlm)])

    def albef() -> torch.Tensor:
        image = model.encode_image(batch.image)
        words = padded_text(model, text)
        projection = model.part("projection")
        image_embed = F.normalize(projection.project_image(image.pooled), dim=1)
        text_embed = F.normalize(projection.project_text(words[:, 0]), dim=1)
        similarity = model.similarity(image_embed, text_embed)
        contrast = (F.cross_entropy(similarity, index) + F.cross_entropy(similarity.T, index)) / 2
        features = Features(image_embed=image_embed, text_embed=text_embed, owner=index)
        hard_text, _, hard_image, _ = itm.negatives(model, batch, features)
        right = padded_fusion(model, words, text.mask, image.states)
        pairs = torch.cat([words, words[hard_text]]), torch.cat([text.mask, text.mask[hard_text]])
        wrong = padded_fusion(model, *pairs, torch.cat([image.states[hard_image], image.states]))
        logits = itm.head(torch.cat([right[:, 0], wrong[:, 0]]))
        label = (torch.arange(len(logits)) < options.batch).long()
        filled = padded_fusion(model, padded_text(model, masked), masked.mask, image.states)
        embedding = model.part("text").embedding.weight
        predicted = mlm.head(filled, embedding)  # ALBEF scores every position and ignores most
        masked_loss = F.cross_entropy(predicted[chosen], text.ids[chosen])
        return torch.stack([contrast, F.cross_entropy(logits, label), masked_loss])

    def timed(step: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
        for parameter in parameters:
            parameter.grad = None
        start = time.perf_counter()
        losses = step()
        losses.sum().backward()
        return time.perf_counter() - start, losses.detach()

    timed(ours), timed(albef)
    ratios = []
    for round_ in range(options.rounds):
        sides = [("vlp", ours), ("ALBEF's order", albef)]
        seconds, losses = {}, {}
        for name, step in sides if round_ % 2 else sides[::-1]:
            seconds[name], losses[name] = timed(step)
        ratios.append(seconds["ALBEF's order"] / seconds["vlp"])
        print(
            ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()), f"ratio {ratios[-1]:.2f}", flush=True
        )
    for name, values in losses.items():
        print(f"{name}: itc {values[0]:.6f}, itm {values[1]:.6f}, mlm {values[2]:.6f}")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
