"""One million captions: how long until they can be trained on, how much memory they take with four data workers, and how
long it takes to look one up.

    python experiments/benchmarks/caption_index.py [--captions 1000000] [--an-image 5] [--workers 4]

The captions are generated, in Karpathy's layout and as a JSONL table of one row a caption, and there are no pictures. Memory is
the proportional set size of the process and its workers (Linux): what they share counts once. Of it, what Python, torch
and Lightning take by themselves is printed beside it.
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
from vlp.data.packed_samples import PackedSamples, without_collection
from vlp.data.transforms import EvalTransform
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.table import Table

LOOKS = 20_000


def sentences(count: int) -> Iterator[str]:
    draws = random.Random(0)
    words = [f"word{number}" for number in range(3000)]
    for _ in range(count):
        yield " ".join(draws.choices(words, k=10))


def write(folder: Path, captions: int, an_image: int) -> None:
    (folder / "images").mkdir()
    texts, images = sentences(captions), []
    with (folder / "list.jsonl").open("w") as table:
        for number in range(captions // an_image):
            name = f"{number:09d}.jpg"
            own = [next(texts) for _ in range(an_image)]
            told = [{"raw": text, "sentid": number * an_image + place} for place, text in enumerate(own)]
            images.append({"split": "train", "filename": name, "imgid": number, "sentences": told})
            for text in own:
                table.write(json.dumps({"image": f"images/{name}", "caption": text, "split": "train"}) + "\n")
    (folder / "dataset.json").write_text(json.dumps({"images": images}))


def memory(process: int | str = "self") -> float:
    """Proportional set size in GB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e6


def look_up(index: PackedSamples, ready: Any, done: Any) -> None:
    draws = random.Random(1)
    for _ in range(LOOKS):
        index[draws.randrange(len(index))]
    ready.release()
    done.wait()


def measure(name: str, data: DataModule, workers: int) -> None:
    bare = memory()
    begin = time.perf_counter()
    with without_collection():
        index = PackedSamples(data.samples("train"))
    seconds = time.perf_counter() - begin
    data.__dict__.clear()  # the reader keeps what it read for its other splits
    gc.collect()
    draws = random.Random(0)
    places = [draws.randrange(len(index)) for _ in range(LOOKS)]
    begin = time.perf_counter()
    for place in places:
        index[place]
    each = (time.perf_counter() - begin) / LOOKS
    context = multiprocessing.get_context("fork")  # as torch's loader starts its workers on Linux
    ready, done = context.Semaphore(0), context.Event()
    pool = [context.Process(target=look_up, args=(index, ready, done)) for _ in range(workers)]
    for process in pool:
        process.start()
    for _ in pool:
        ready.acquire()
    total = memory() + sum(memory(process.pid) for process in pool if process.pid)
    done.set()
    for process in pool:
        process.join()
    print(
        f"{name}: {len(index):,} images indexed in {seconds:.1f} s, {index.size / 1e6:.0f} MB; {total:.2f} GB with {workers} "
        f"workers, {bare:.2f} GB before anything was read; {each * 1e6:.0f} µs a look",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--an-image", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    transform = EvalTransform(image_size=16)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, options.captions, options.an_image)
        common = {"name": "captions", "root": folder, "transform": {"train": transform, "eval": transform}}
        measure("Karpathy's layout", Karpathy(annotations="dataset.json", images="images", **common), options.workers)
        measure("JSONL table", Table(table="list.jsonl", **common), options.workers)


if __name__ == "__main__":
    main()
