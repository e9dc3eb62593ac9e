"""From JPEG files to a training batch on one core: vlp against open_clip's training transform, on the same files and crops.

    pip install 'vlp[benchmark,fast]' webdataset
    python experiments/benchmarks/image_loading.py [--photos FOLDER] [--rounds 9] [--count 64]

open_clip decodes with Pillow, crops, resizes and returns a normalised float batch, as its CSV and webdataset readers do; vlp
returns a uint8 batch, which is normalised on the device. The programs alternate within each round, in another order in each;
open_clip gets the crops that vlp samples. "TorchCodec only" decodes the photos at full size without any transform: a lower
bound for every transform after it. Printed: milliseconds per photo, the ratios of the rounds with their range, the mean
absolute difference of the pixels in levels of 255, and photos per second of one core and of a loader with two workers.
Photos of 640×480 pixels are not changed; the small ones are the same photos at 224×224, JPEG quality 90.
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
from vlp.data.shards.pack import PackOptions, pack_splits
from vlp.data.transforms import TrainTransform
from vlp.data.view import torchcodec_decoder
from vlp.datasets.shards import Shards
from vlp.launch.config.compose import data_root
from vlp.structures import Sample, Text

SIZE = 224
SCALE, RATIO = (0.9, 1.0), (3 / 4, 4 / 3)  # open_clip's defaults
LoadBatch = Callable[[Sequence[Sample]], Tensor]


class Photos(DataModule):
    """A folder of JPEGs as the training split."""

    def samples(self, split: str) -> list[Sample]:
        files = sorted(self.root.glob("*.jpg")) if split == "train" else []
        return [Sample(id=n, sample=n, image=file, captions=("a photo",)) for n, file in enumerate(files)]


def write_photos(photos: Path, folder: Path, count: int) -> None:
    """Writes folder/large and folder/small with `count` photos each; if there are fewer, some are repeated."""
    files = [file for file in sorted(photos.rglob("*.jpg")) if PIL.Image.open(file).size == (640, 480)]
    if not files:
        raise SystemExit(f"{photos}: no JPEG of 640×480 pixels; give another folder with --photos")
    for name in ("large", "small"):
        (folder / name).mkdir()
    for number in range(count):
        file = files[number % len(files)]
        (folder / "large" / f"{number:04d}.jpg").write_bytes(file.read_bytes())
        small = PIL.Image.open(file).convert("RGB").resize((SIZE, SIZE), PIL.Image.Resampling.BICUBIC)
        small.save(folder / "small" / f"{number:04d}.jpg", quality=90)


def train_transform(decoder: str) -> TrainTransform:
    return TrainTransform(image_size=SIZE, crop_scale=SCALE, crop_ratio=RATIO, decoder=decoder)


def vlp_loader(decoder: str) -> LoadBatch:
    transform = train_transform(decoder)
    return lambda samples: torch.stack([transform.render(open_photo(s.image), s.id)[0] for s in samples])


def open_clip_loader() -> LoadBatch:
    """With the crops that vlp samples."""
    open_clip_transform = open_clip.image_transform(SIZE, is_train=True)
    crop = next(step for step in open_clip_transform.transforms if isinstance(step, RandomResizedCrop))
    vlp_transform = train_transform("pillow")

    def load_batch(samples: Sequence[Sample]) -> Tensor:
        rows = []
        for sample in samples:
            image = PIL.Image.open(str(sample.image))
            view = vlp_transform.choose_view(*image.size, random.Random(sample.id))
            crop.get_params = lambda *_, view=view: (view.top, view.left, view.height, view.width)
            rows.append(open_clip_transform(image))
        return torch.stack(rows)

    return load_batch


def to_levels(batch: Tensor) -> Tensor:
    """open_clip's normalised pixels in levels from 0 to 255."""
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    return (batch * std[:, None, None] + mean[:, None, None]) * 255


def compare(title: str, programs: dict[str, Callable[[], object]], count: int, rounds: int) -> None:
    """Prints the time of each program, and the ratio of the first one's time to it.  count: photos that each loads."""
    names = list(programs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):  # the first warms up
        first = number % len(names)
        for name in names[first:] + names[:first]:
            begin = time.perf_counter()
            programs[name]()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    for name in names:
        ratios = [reference / own for reference, own in zip(seconds[names[0]], seconds[name], strict=True)]
        milliseconds = 1000 * statistics.median(seconds[name]) / count
        ratio = (
            f"{statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})" if name != names[0] else ""
        )
        print(f"{title:22} {name:22} {milliseconds:6.2f} ms per photo   {ratio}", flush=True)


def loader_rate(data: DataModule, epochs: int) -> float:
    """Photos per second of two workers, without their start."""
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
        write_photos(options.photos, Path(temporary), options.count)
        for kind, resolution in (("large", "640×480"), ("small", "224×224")):
            measure(Path(temporary), kind, resolution, options.rounds)


def measure(folder: Path, kind: str, resolution: str, rounds: int) -> None:
    common = {
        "name": kind, "root": folder / kind, "batch_size": 16, "num_workers": 2,
        "transform": {"train": train_transform("pillow"), "eval": train_transform("pillow")}, "tokenizer": constant_tokens,
    }  # fmt: skip
    data = Photos(**common)
    samples = list(data.samples("train"))
    reference, pillow, torchcodec = open_clip_loader(), vlp_loader("pillow"), vlp_loader("torchcodec")
    for name, load_batch in (("pillow", pillow), ("torchcodec", torchcodec)):
        difference = (to_levels(reference(samples)) - load_batch(samples).float()).abs()
        print(f"{resolution}, {name}: mean absolute difference {difference.mean():.2f} levels of 255", flush=True)
    decode = torchcodec_decoder()
    programs = {
        "open_clip": lambda: reference(samples),
        "vlp, Pillow": lambda: pillow(samples),
        "vlp, TorchCodec": lambda: torchcodec(samples),
        "TorchCodec only": lambda: [decode(read_bytes(s.image)) for s in samples],
    }
    compare(f"{resolution}, folder", programs, len(samples), rounds)
    pack_splits({"train": samples}, folder / f"{kind}-shards", PackOptions(shuffle=False))
    shards = Shards(**{**common, "root": folder / f"{kind}-shards", "cache": folder / "cache"})
    packed = shards.split("train")
    open_clip_transform = open_clip.image_transform(SIZE, is_train=True)
    stream = webdataset.WebDataset(str(folder / f"{kind}-shards" / "train-00000.tar"), shardshuffle=False)
    decoded = stream.decode("pilrgb").to_tuple("jpg")
    programs = {
        "open_clip, webdataset": lambda: torch.stack([open_clip_transform(image) for (image,) in decoded]),
        "vlp, Pillow": lambda: pillow([packed[n] for n in range(len(packed))]),
        "vlp, TorchCodec": lambda: torchcodec([packed[n] for n in range(len(packed))]),
    }
    compare(f"{resolution}, shards", programs, len(samples), rounds)
    begin = time.perf_counter()
    pillow(samples)
    single_rate = len(samples) / (time.perf_counter() - begin)
    folder_rate, shards_rate = loader_rate(data, 8), loader_rate(shards, 8)
    print(
        f"{resolution}: {single_rate:.0f} photos/s on one core; loader with two workers {folder_rate:.0f} from a folder, "
        f"{shards_rate:.0f} from shards",
        flush=True,
    )


def constant_tokens(texts: Sequence[str], *, kind: str = "caption") -> Text:
    ids = torch.ones(len(texts), 4, dtype=torch.int64)
    return Text(ids=ids, mask=ids > 0)


if __name__ == "__main__":
    main()
