"""From JPEG files to a training batch on one core: vlp beside open_clip's training transform, on the same files and crops.

    pip install 'vlp[benchmark,fast]' webdataset
    python experiments/benchmarks/image_loading.py [--photos FOLDER] [--rounds 9] [--count 64]

open_clip decodes with Pillow, crops, resizes and makes a normalised float batch, as its CSV and webdataset readers do; vlp
makes a uint8 batch, which is normalised on the device. The sides alternate within each round and take their places in turn;
crops are those that vlp draws, handed to open_clip. "TorchCodec, bare" decodes the photos in full and does nothing with
them: what no transform on top of it can beat. Printed: milliseconds a photo, ratios of every round with their range, the mean
absolute difference of the pixels in levels of 255, and what a loader with two workers gives beside the bare decoder.
Photos of 640×480 pixels are taken as they are; the small ones are the same at 224×224, JPEG quality 90.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import PIL.Image
import torch
import webdataset
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from vlp.data.datamodule import DataModule
from vlp.data.images import open_photo, read_bytes
from vlp.data.shards.pack import PackOptions, pack
from vlp.data.transforms import TrainTransform
from vlp.data.view import torchcodec_decoder
from vlp.datasets.shards import Shards
from vlp.launch.config.compose import data_root
from vlp.structures import Sample

SIZE = 224
SCALE, RATIO = (0.9, 1.0), (3 / 4, 4 / 3)  # open_clip's defaults
Side = Callable[[Sequence[Sample]], Tensor]


class Photos(DataModule):
    """A folder of JPEGs as the training split."""

    def samples(self, split: str) -> list[Sample]:
        files = sorted(self.root.glob("*.jpg")) if split == "train" else []
        return [Sample(id=n, sample=n, image=file, captions=("a photo",)) for n, file in enumerate(files)]


def prepare(photos: Path, folder: Path, count: int) -> None:
    """folder/large and folder/small, each with so many photos; the same ones again where there are fewer."""
    found = [file for file in sorted(photos.rglob("*.jpg")) if PIL.Image.open(file).size == (640, 480)]
    if not found:
        raise SystemExit(f"{photos}: no JPEG of 640×480 pixels; give another folder with --photos")
    for name in ("large", "small"):
        (folder / name).mkdir()
    for number in range(count):
        file = found[number % len(found)]
        (folder / "large" / f"{number:04d}.jpg").write_bytes(file.read_bytes())
        small = PIL.Image.open(file).convert("RGB").resize((SIZE, SIZE), PIL.Image.Resampling.BICUBIC)
        small.save(folder / "small" / f"{number:04d}.jpg", quality=90)


def transform(decoder: str) -> TrainTransform:
    return TrainTransform(image_size=SIZE, crop_scale=SCALE, crop_ratio=RATIO, decoder=decoder)


def vlp_side(decoder: str) -> Side:
    ours = transform(decoder)
    return lambda samples: torch.stack([ours.look(open_photo(s.image), s.id)[0] for s in samples])


def open_clip_side() -> Side:
    """With the crops that vlp draws: their drawing is left out of their time."""
    theirs = open_clip.image_transform(SIZE, is_train=True)
    crop = next(step for step in theirs.transforms if isinstance(step, RandomResizedCrop))
    ours = transform("pillow")

    def batch(samples: Sequence[Sample]) -> Tensor:
        rows = []
        for sample in samples:
            image = PIL.Image.open(str(sample.image))
            view = ours.view(*image.size, random.Random(sample.id))
            crop.get_params = lambda *_, view=view: (view.top, view.left, view.height, view.width)
            rows.append(theirs(image))
        return torch.stack(rows)

    return batch


def levels(batch: Tensor) -> Tensor:
    """open_clip's normalised floats as 0 to 255."""
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    return (batch * std[:, None, None] + mean[:, None, None]) * 255


def compare(name: str, sides: dict[str, Callable[[], object]], count: int, rounds: int) -> None:
    """sides: the first is the rival."""
    names = list(sides)
    seconds: dict[str, list[float]] = {side: [] for side in names}
    for number in range(rounds + 1):  # the first warms up
        turn = number % len(names)
        for side in names[turn:] + names[:turn]:
            begin = time.perf_counter()
            sides[side]()
            if number:
                seconds[side].append(time.perf_counter() - begin)
    rival = names[0]
    for side in names:
        ratios = [theirs / ours for theirs, ours in zip(seconds[rival], seconds[side], strict=True)]
        each = 1000 * statistics.median(seconds[side]) / count
        ranges = f"{statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:22} {side:22} {each:6.2f} ms a photo   {ranges if side != rival else ''}", flush=True)


def loader_rate(data: DataModule, epochs: int) -> float:
    """Photos a second of two workers, once they are started."""
    data.setup("fit")
    loader = data.train_dataloader()
    list(loader)
    begin = time.perf_counter()
    photos = sum(len(batch) for _ in range(epochs) for batch in loader)
    return photos / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path(data_root("coco-sample")))
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        prepare(options.photos, Path(temporary), options.count)
        for kind, told in (("large", "640×480"), ("small", "224×224")):
            measure(Path(temporary), kind, told, options.rounds)


def measure(folder: Path, kind: str, told: str, rounds: int) -> None:
    common = {
        "name": kind, "root": folder / kind, "batch_size": 16, "num_workers": 2,
        "transform": {"train": transform("pillow"), "eval": transform("pillow")}, "tokenizer": tokens,
    }  # fmt: skip
    data = Photos(**common)
    samples = list(data.samples("train"))
    rival, pillow, codec = open_clip_side(), vlp_side("pillow"), vlp_side("torchcodec")
    for name, side in (("pillow", pillow), ("torchcodec", codec)):
        difference = (levels(rival(samples)) - side(samples).float()).abs()
        print(f"{told}, {name}: mean absolute difference {difference.mean():.2f} levels of 255", flush=True)
    decode = torchcodec_decoder()
    sides = {
        "open_clip": lambda: rival(samples),
        "vlp, Pillow": lambda: pillow(samples),
        "vlp, TorchCodec": lambda: codec(samples),
        "TorchCodec, bare": lambda: [decode(read_bytes(s.image)) for s in samples],
    }
    compare(f"{told}, folder", sides, len(samples), rounds)
    pack({"train": samples}, folder / f"{kind}-shards", PackOptions(shuffle=False))
    shards = Shards(**{**common, "root": folder / f"{kind}-shards", "cache": folder / "cache"})
    packed = shards.split("train")
    theirs = open_clip.image_transform(SIZE, is_train=True)
    stream = webdataset.WebDataset(str(folder / f"{kind}-shards" / "train-00000.tar"), shardshuffle=False)
    decoded = stream.decode("pilrgb").to_tuple("jpg")
    sides = {
        "open_clip, webdataset": lambda: torch.stack([theirs(image) for (image,) in decoded]),
        "vlp, Pillow": lambda: pillow([packed[n] for n in range(len(packed))]),
        "vlp, TorchCodec": lambda: codec([packed[n] for n in range(len(packed))]),
    }
    compare(f"{told}, shards", sides, len(samples), rounds)
    begin = time.perf_counter()
    pillow(samples)
    bare = len(samples) / (time.perf_counter() - begin)
    rates = (loader_rate(data, 8), loader_rate(shards, 8))
    print(
        f"{told}: {bare:.0f} photos/s of the bare decoder on one core; loader with two workers {rates[0]:.0f} from a "
        f"folder, {rates[1]:.0f} from shards",
        flush=True,
    )


def tokens(texts: Sequence[str], *, kind: str = "caption") -> object:
    from vlp.structures import Text

    ids = torch.ones(len(texts), 4, dtype=torch.int64)
    return Text(ids=ids, mask=ids > 0)


if __name__ == "__main__":
    main()
