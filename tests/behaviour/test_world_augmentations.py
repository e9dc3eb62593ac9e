"""A training sample is augmented identically by any process and worker; with real processes and workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from tests.data_fixtures import Letters
from tests.processes import run_processes
from vlp.data.transforms import EvalTransform, TrainTransform
from vlp.datasets.karpathy import Karpathy

EPOCHS, COUNT, BATCH = 2, 21, 8


def write_data_set(root: Path) -> None:
    (root / "images").mkdir()
    records = []
    for number in range(COUNT):
        noise = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(root / "images" / f"{number}.png")
        sentences = [{"raw": f"{number} caption {number_in_image}"} for number_in_image in range(4)]
        split = "train" if number else "val"
        records.append({"split": split, "filename": f"{number}.png", "imgid": number, "sentences": sentences})
    (root / "dataset.json").write_text(json.dumps({"images": records}))


def load_samples(rank: int, root: str, workers: int) -> dict[str, Any]:
    """By epoch and sample: pixels, caption and the seed from which masks and negatives are drawn."""
    train = TrainTransform(image_size=12, flip=True, rand_augment=(2, 9), colour_jitter=(0.4, 0.4, 0.4, 0.1))
    data = Karpathy(
        root=root, annotations="dataset.json", images="images", name="toy", tokenizer=Letters(), batch_size=BATCH,
        transform={"train": train, "eval": EvalTransform(image_size=12)}, seed=5, num_workers=workers,
    )  # fmt: skip
    data.setup("fit")
    torch.manual_seed(1000 * rank + workers)  # earlier random numbers of the process must not matter
    loader, samples = data.train_dataloader(), {}
    for epoch in range(EPOCHS):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            torch.rand(rank + 1)
            for row in range(len(batch)):
                text = batch.caption.ids[row][batch.caption.mask[row]]
                key = f"{epoch}:{int(batch.sample[row])}"
                samples[key] = {"pixels": batch.image.pixels[row], "caption": text, "seed": int(batch.seed[row])}
    return samples


def on_rank(rank: int, world: int, root: str) -> list[dict[str, Any]]:
    return [load_samples(rank, root, workers) for workers in (0, 2)]


def test_augmentation_is_equal_on_any_rank_and_worker(tmp_path: Path) -> None:
    """0 and 2 workers, 1 and 2 processes: equal pixels; in two epochs a sample is augmented in two ways."""
    write_data_set(tmp_path)
    one = load_samples(0, str(tmp_path), 0)
    ranks = run_processes(2, on_rank, tmp_path / "out", str(tmp_path))
    for workers in (0, 1):
        parts = [rank[workers] for rank in ranks]
        assert [len(part) for part in parts] == [EPOCHS * (COUNT // BATCH) * BATCH // 2] * 2
        joined = parts[0] | parts[1]
        assert joined.keys() == one.keys()
        for key, expected in one.items():
            assert joined[key]["seed"] == expected["seed"]
            assert torch.equal(joined[key]["caption"], expected["caption"]), key
            assert torch.equal(joined[key]["pixels"], expected["pixels"]), key
    both = [sample for sample in range(COUNT) if {f"0:{sample}", f"1:{sample}"} <= one.keys()]
    assert len(both) > 5
    same = [torch.equal(one[f"0:{sample}"]["pixels"], one[f"1:{sample}"]["pixels"]) for sample in both]
    assert not any(same)
