"""One million captions: the time to index them, the memory that they take with four data workers, and the time of a lookup.

    python experiments/benchmarks/caption_index.py [--captions 1000000] [--an-image 5] [--workers 4]

The captions are generated, in Karpathy's layout and as a JSONL table of one row per caption; there are no images. Memory is the
proportional set size of the process and its workers (Linux), which counts shared pages once. The memory of Python, torch and
Lightning alone is printed too.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlp.data.datamodule import DataModule
from vlp.data.packed_samples import PackedSamples, garbage_collection_disabled
from vlp.data.transforms import EvalTransform
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.table import Table

LOOKUPS = 20_000


def random_sentences(count: int) -> Iterator[str]:
    draws = random.Random(0)
    words = [f"word{number}" for number in range(3000)]
    for _ in range(count):
        yield " ".join(draws.choices(words, k=10))


def write_annotations(folder: Path, captions: int, captions_per_image: int) -> None:
    (folder / "images").mkdir()
    texts, images = random_sentences(captions), []
    with (folder / "list.jsonl").open("w") as table:
        for number in range(captions // captions_per_image):
            name = f"{number:09d}.jpg"
            image_texts = [next(texts) for _ in range(captions_per_image)]
            sentences = [
                {"raw": text, "sentid": number * captions_per_image + index} for index, text in enumerate(image_texts)
            ]
            images.append({"split": "train", "filename": name, "imgid": number, "sentences": sentences})
            for text in image_texts:
                table.write(json.dumps({"image": f"images/{name}", "caption": text, "split": "train"}) + "\n")
    (folder / "dataset.json").write_text(json.dumps({"images": images}))


def process_memory(process: int | str = "self") -> float:
    """Proportional set size in GB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e6


def run_worker(index: PackedSamples, ready: Any, done: Any) -> None:
    """Looks up random samples and then waits, so that the process's memory can be measured."""
    draws = random.Random(1)
    for _ in range(LOOKUPS):
        index[draws.randrange(len(index))]
    ready.release()
    done.wait()


def measure(name: str, data: DataModule, workers: int) -> None:
    memory_before = process_memory()
    begin = time.perf_counter()
    with garbage_collection_disabled():
        index = PackedSamples(data.samples("train"))
    seconds = time.perf_counter() - begin
    data.__dict__.clear()  # the reader keeps what it read for its other splits
    gc.collect()
    draws = random.Random(0)
    rows = [draws.randrange(len(index)) for _ in range(LOOKUPS)]
    begin = time.perf_counter()
    for row in rows:
        index[row]
    lookup_seconds = (time.perf_counter() - begin) / LOOKUPS
    context = multiprocessing.get_context("fork")  # as torch's loader starts its workers on Linux
    ready, done = context.Semaphore(0), context.Event()
    pool = [context.Process(target=run_worker, args=(index, ready, done)) for _ in range(workers)]
    for process in pool:
        process.start()
    for _ in pool:
        ready.acquire()
    total = process_memory() + sum(process_memory(process.pid) for process in pool if process.pid)
    done.set()
    for process in pool:
        process.join()
    print(
        f"{name}: {len(index):,} images indexed in {seconds:.1f} s, {index.nbytes / 1e6:.0f} MB; {total:.2f} GB with {workers} "
        f"workers, {memory_before:.2f} GB before reading; {lookup_seconds * 1e6:.0f} µs per lookup",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--an-image", type=int, default=5, help="captions of an image")
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    transform = EvalTransform(image_size=16)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_annotations(folder, options.captions, options.an_image)
        common = {"name": "captions", "root": folder, "transform": {"train": transform, "eval": transform}}
        measure("Karpathy's layout", Karpathy(annotations="dataset.json", images="images", **common), options.workers)
        measure("JSONL table", Table(table="list.jsonl", **common), options.workers)


if __name__ == "__main__":
    main()
