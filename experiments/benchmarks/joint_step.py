"""One training step of contrast, matching and masked words with ALBEF-base's layers: vlp against ALBEF's order of passes.

    python experiments/benchmarks/joint_step.py [--batch 8] [--rounds 5] [--threads 2]

ALBEF fuses matched pairs, then twice as many unmatched ones, then the masked texts, and projects the image's keys and
values in each of these passes; its texts are padded to the longest of the batch. Both programs use the same layers, weights,
batch, negatives and masked tokens, without a momentum model; the losses of both are printed. A step is forward and backward.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks.albef_layers import albef_base, captions, padded_fusion, padded_text
from vlp.models.features import compute_features
from vlp.objectives.itc import ITC
from vlp.objectives.itm import ITM
from vlp.objectives.mlm import MLM, choose_masked_tokens, corrupt_tokens
from vlp.random import mix_rows
from vlp.structures import Batch, Features, Image

MASK_ID, VOCABULARY_SIZE = 103, 30522


class JointStep(nn.Module):
    """The model, its objectives and one batch. `vlp_losses` and `albef_losses` return the losses of itc, itm and mlm, [3]."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.model = albef_base()
        self.itc, self.itm, self.mlm = ITC(), ITM(width=768), MLM(width=768, vocabulary_size=VOCABULARY_SIZE)
        self.mlm.mask_id = MASK_ID
        index = torch.arange(batch_size)
        self.text = captions(batch_size).select(slice(None))
        pixels = torch.randint(0, 256, (batch_size, 3, 256, 256), dtype=torch.uint8)
        self.batch = Batch(id=index, sample=index, seed=index, image=Image(pixels=pixels), caption=self.text)
        seeds = mix_rows(self.batch.seed, torch.zeros_like(self.batch.seed))
        self.chosen = choose_masked_tokens(self.text, seeds, self.mlm.special, None, self.mlm.mask_prob)
        self.masked = corrupt_tokens(self.text, self.chosen, seeds, MASK_ID, VOCABULARY_SIZE)

    def vlp_losses(self) -> Tensor:
        objectives = (self.itc, self.itm, self.mlm)
        fields = {field for objective in objectives for field in objective.uses}
        features = compute_features(self.model, self.batch, fields)
        return torch.stack([objective(self.model, self.batch, features).value for objective in objectives])

    def albef_losses(self) -> Tensor:
        model, text, index = self.model, self.text, self.batch.id
        image = model.encode_image(self.batch.image)
        words = padded_text(model, text)
        projection = model.part("projection")
        image_embed = F.normalize(projection.project_image(image.pooled), dim=1)
        text_embed = F.normalize(projection.project_text(words[:, 0]), dim=1)
        similarity = model.similarity(image_embed, text_embed)
        contrast = (F.cross_entropy(similarity, index) + F.cross_entropy(similarity.T, index)) / 2
        features = Features(image_embed=image_embed, text_embed=text_embed, owner=index)
        hard_text, _, hard_image, _ = self.itm.negatives(model, self.batch, features)
        matched = padded_fusion(model, words, text.mask, image.states)
        unmatched_words, mask = torch.cat([words, words[hard_text]]), torch.cat([text.mask, text.mask[hard_text]])
        unmatched = padded_fusion(model, unmatched_words, mask, torch.cat([image.states[hard_image], image.states]))
        logits = self.itm.head(torch.cat([matched[:, 0], unmatched[:, 0]]))
        label = (torch.arange(len(logits)) < len(index)).long()
        masked = padded_fusion(model, padded_text(model, self.masked), self.masked.mask, image.states)
        # ALBEF scores every position and ignores most
        predicted = self.mlm.head(masked, model.part("text").embedding.weight)
        masked_loss = F.cross_entropy(predicted[self.chosen], text.ids[self.chosen])
        return torch.stack([contrast, F.cross_entropy(logits, label), masked_loss])

    def measure(self, losses: Callable[[], Tensor]) -> tuple[float, Tensor]:
        """Seconds of forward and backward, and the losses."""
        self.zero_grad()
        start = time.perf_counter()
        values = losses()
        values.sum().backward()
        return time.perf_counter() - start, values.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    step = JointStep(options.batch).train()
    programs = [("vlp", step.vlp_losses), ("ALBEF's order", step.albef_losses)]
    for _, program in programs:  # warm up
        step.measure(program)
    ratios = []
    for number in range(options.rounds):
        seconds, losses = {}, {}
        for name, program in programs if number % 2 else programs[::-1]:
            seconds[name], losses[name] = step.measure(program)
        ratios.append(seconds["ALBEF's order"] / seconds["vlp"])
        described = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
        print(f"{described}, ratio {ratios[-1]:.2f}", flush=True)
    for name, values in losses.items():
        print(f"{name}: itc {values[0]:.6f}, itm {values[1]:.6f}, mlm {values[2]:.6f}")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
