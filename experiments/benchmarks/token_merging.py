"""Images per second of a base-sized vision tower with random weights against the tokens that merging keeps.

    python experiments/benchmarks/token_merging.py [--merged 4 8 12 16] [--batch 4] [--rounds 5] [--threads 1]

The plain tower and the merging ones have the same weights and take turns; a round starts with another one each time. Seconds are
CPU seconds of the process, so that other programs of the machine count little.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.tome import Tome
from vlp.structures import Image

SIDE, PATCH_SIZE, WIDTH, LAYERS = 224, 16, 768, 12


def cpu_seconds(tower: ClipVit, image: Image) -> float:
    start = time.process_time()
    tower(image, pooled_only=True)
    return time.process_time() - start


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merged", type=int, nargs="+", default=[4, 8, 12, 16])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tower = ClipVit(image_size=SIDE, patch_size=PATCH_SIZE, width=WIDTH, layers=LAYERS).eval()
    image = Image(pixels=torch.randint(0, 256, (options.batch, 3, SIDE, SIDE), dtype=torch.uint8))
    counts = [0, *options.merged]
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(-1, options.rounds):  # the first one warms up
        turn = number % len(counts)
        for count in counts[turn:] + counts[:turn]:
            tower.merging = Tome(merged_per_layer=count)
            measured = cpu_seconds(tower, image)
            if number >= 0:
                seconds[count].append(measured)
    patches = (SIDE // PATCH_SIZE) ** 2
    for count in counts:
        kept = patches - sum(Tome(merged_per_layer=count).schedule(layers=LAYERS, patches=patches))
        ratios = [plain / own for plain, own in zip(seconds[0], seconds[count], strict=True)]
        print(
            f"merged per layer {count}: {kept} of {patches} patches left, {options.batch / min(seconds[count]):.2f} images per "
            f"CPU second at best, {statistics.median(ratios):.2f} x the plain tower ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
