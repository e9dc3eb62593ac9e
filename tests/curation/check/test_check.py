"""A folder with the faults of a real one: each of them is named, and training survives what it can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from tests.data.image_files import encoded, png_header
from vlp.cli import main
from vlp.curation.check.check import CheckReport, check_data
from vlp.curation.check.html_report import write_html_report
from vlp.data.transforms import EvalTransform
from vlp.datasets.table import Table
from vlp.structures import Text

EVIL = "<script>alert(1)</script> [/red] \x1b[31m"


def noise(number: int, size: tuple[int, int] = (64, 48)) -> PIL.Image.Image:
    grid = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return PIL.Image.fromarray(grid).resize(size, PIL.Image.Resampling.BICUBIC)


PHOTO, PNG = encoded(noise(1)), encoded(noise(2), "PNG")
BROKEN = {
    "empty.jpg": (b"", "empty image file"),
    "page.jpg": (b"<html>404</html>", "not an image"),
    "half.jpg": (PHOTO[: len(PHOTO) // 2], "damaged image"),
    "almost.jpg": (PHOTO[:-2], "damaged image"),
    "flipped.png": (PNG[:1500] + bytes([PNG[1500] ^ 255]) + PNG[1501:], "damaged image"),
    "large.png": (png_header(12000, 12000), "image above the limit"),
    "huge.png": (png_header(30000, 30000), "image above the limit"),
}
GOOD: dict[str, PIL.Image.Image] = {
    "grey.png": noise(3).convert("L"),
    "cmyk.jpg": noise(4).convert("CMYK"),
    "alpha.png": noise(5).convert("RGBA"),
    "palette.png": noise(6).quantize(16),
    "bits.png": noise(7).convert("1"),
    "deep.png": PIL.Image.fromarray(np.random.default_rng(8).integers(0, 65536, (20, 30), dtype=np.uint16)),
    "dot.png": PIL.Image.new("RGB", (1, 1), "red"),
    "line.png": PIL.Image.effect_noise((1, 4000), 50),
    "bitmap.bmp": noise(9),
    "photo.tiff": noise(10),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 good photos of training beside every fault, and a clean val split."""
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret.jpg").write_bytes(PHOTO)
    rows: list[dict[str, Any]] = []

    def add(name: str, data: bytes | None, captions: object = "a caption", split: str = "train") -> None:
        if data is not None:
            (root / name).write_bytes(data)
        rows.append({"image": name, "captions": captions, "split": split})

    for number in range(60):
        add(f"{number}.jpg", encoded(noise(100 + number)), f"photo number {number}")
    for number in range(3):
        add(f"val{number}.jpg", encoded(noise(200 + number)), "a val photo", "val")
        add(f"test{number}.jpg", encoded(noise(300 + number)), "a test photo", "test")
    for name, image in GOOD.items():
        add(name, encoded(image, {"bmp": "BMP", "jpg": "JPEG", "png": "PNG", "tiff": "TIFF"}[name.rpartition(".")[2]]))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    noise(11).save(root / "turned.jpg", exif=exif)
    noise(12).save(root / "moving.gif", save_all=True, append_images=[noise(13)])
    for name in ("turned.jpg", "moving.gif"):
        add(name, None)
    for name, (data, _) in BROKEN.items():
        add(name, data)
    (root / "folder.jpg").mkdir()
    os.symlink(root / "nowhere.jpg", root / "dangling.jpg")
    os.symlink(tmp_path / "secret.jpg", root / "outside.jpg")
    for name in ("folder.jpg", "dangling.jpg", "outside.jpg", "missing.jpg"):
        add(name, None)
    for name in ("../secret.jpg", "/etc/passwd", "..\\secret.jpg", "a\0b.jpg", "x" * 5000):
        add(name, None)
    add("empty-caption.jpg", PHOTO, ["", "   "])
    add("no-caption.jpg", PHOTO, [])
    add("number.jpg", PHOTO, [7])
    add("long.jpg", encoded(noise(14)), "word " * 20_000)
    add("emoji.jpg", encoded(noise(15)), "🎈🎈🎈")
    add("right-to-left.jpg", encoded(noise(16)), "كلب صغير")
    add("evil.jpg", encoded(noise(17)), EVIL)
    lines = [json.dumps(row) for row in rows]
    lines.append('{"image": "cut.jpg", "captions": ["cut')
    (root / "list.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def table(root: Path, **changed: Any) -> Table:
    eval_transform = EvalTransform(image_size=16)
    transform = {"train": eval_transform, "eval": eval_transform}
    return Table(
        name="own", root=root, table="list.jsonl", caption="captions", transform=transform, tokenizer=letters, **changed
    )


def letters(texts: list[str], *, kind: str = "caption") -> Text:
    return Text(ids=torch.ones(len(texts), 4, dtype=torch.int64), mask=torch.ones(len(texts), 4, dtype=torch.bool))


def counts_by_kind(report: CheckReport, split: str = "own/train") -> dict[str, int]:
    return {issue.kind: issue.count for issue in report.splits[split].findings}


def test_every_fault_is_reported(folder: Path) -> None:
    report = check_data({"own": table(folder)}, compare_images=False, workers=0)
    counts = counts_by_kind(report)
    examples = {kind: "\n".join(f.examples) for f in report.splits["own/train"].findings for kind in [f.kind]}
    assert counts["damaged image"] == 3
    for name, (_, kind) in BROKEN.items():
        assert name in examples[kind], (name, examples)
    assert counts["image above the limit"] == 2
    assert counts["image that is a folder"] == 1
    assert counts["missing image"] == 2  # one of them a link to nothing
    assert counts["symbolic link out of the root"] == 1
    assert counts["path outside the root"] >= 2
    assert sum(count for kind, count in counts.items() if "path" in kind or "file name" in kind) == 5
    assert counts["not valid JSON"] == 1
    assert counts["very long caption"] == 1
    assert counts["control characters in a caption"] == 1
    assert counts["caption without a word"] == 1
    assert counts["markup in a caption"] == 1
    assert any("caption" in kind and "number.jpg" not in kind for kind in counts)
    assert report.splits["own/val"].findings == []
    readable = {str(sample.image) for sample in table_samples(folder)}
    assert {str(folder / name) for name in (*GOOD, "turned.jpg", "moving.gif")} <= readable
    assert not any("secret" in name for name in readable)


def table_samples(folder: Path) -> list[Any]:
    from vlp.data.issues import Faults

    data = table(folder)
    data.faults = Faults(collect=True)
    return list(data.samples("train"))


def test_the_html_report_escapes_texts(folder: Path, tmp_path: Path) -> None:
    report = check_data({"own": table(folder)}, compare_images=False, workers=0)
    report.splits["own/train"].example_samples = [
        s for s in table_samples(folder) if s.image.name in ("evil.jpg", "half.jpg")
    ]
    write_html_report(report, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; [/red] \\x1b[31m" in page
    assert "\x1b" not in page
    assert "data:image/jpeg;base64," in page
    assert "not valid JSON" in page


def test_the_command_reports_all_faults_and_exits_with_1(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    overrides = ["data=table", f"data.root={folder}", "data.table=list.jsonl", "data.caption=captions", "data.name=own"]
    paths = ["--html", str(tmp_path / "page.html"), "--json", str(tmp_path / "found.json"), "--workers", "0"]
    assert main(["data", "check", *overrides, *paths]) == 1
    printed = capfd.readouterr().out
    for kind in ("damaged image", "missing image", "path outside the root", "not valid JSON", "image above the limit"):
        assert kind in printed
    assert "\x1b[31m" not in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["fatal"] > 0
    assert found["splits"]["own/train"]["images"] == len({str(s.image) for s in table_samples(folder)})
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_training_continues_after_unreadable_images(folder: Path, tmp_path: Path) -> None:
    """The list without its refused rows: images that cannot be read are replaced, counted and listed."""
    rows = [json.loads(line) for line in (folder / "list.jsonl").read_text().splitlines()[:-1]]
    refused = ("../", "/etc", "..\\", "a\0b", "xxx", "outside", "number.jpg")
    kept = [row for row in rows if not row["image"].startswith(refused)]
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    data = table(folder, batch_size=20, max_bad_fraction=0.2)
    data.issues_path = tmp_path / "data_issues.jsonl"
    with pytest.warns(UserWarning, match="are not on disk"):
        data.setup("fit")
    for epoch in range(3):
        assert data.sampler is not None
        data.sampler.set_epoch(epoch)
        assert all(batch.image.pixels.shape == (20, 3, 16, 16) for batch in data.train_dataloader())
    listed = {Path(json.loads(line)["file"]).name for line in (tmp_path / "data_issues.jsonl").read_text().splitlines()}
    assert listed <= {*BROKEN, "folder.jpg", "dangling.jpg", "missing.jpg"}
    assert len(listed) >= 8
    strict = table(folder, batch_size=20, max_bad_fraction=0.05)
    strict.setup("fit")
    with pytest.raises(ValueError, match="more than data"):
        list(strict.train_dataloader())


def test_faultless_data_have_no_faults(tmp_path: Path, write_toy: Callable[..., Path]) -> None:
    root = write_toy()
    overrides = ["data=coco_karpathy", f"data.root={root}", "data.annotations=dataset.json", "data.images=images"]
    environment = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-m", "vlp.cli", "data", "check", *overrides, "--workers", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing" in done.stdout


FUZZ = """
import json, random, sys
from pathlib import Path
root, what = Path(sys.argv[1]), sys.argv[2]
reads = []
sys.addaudithook(lambda event, args: reads.append(str(args[0])) if event == "open" and started else None)
started = False
import torch
from vlp.datasets.coco import COCO
from vlp.datasets.salesforce_json import SalesforceJson
from vlp.data.issues import Faults
from vlp.datasets.flickr import Flickr
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.table import Table
from vlp.data.transforms import EvalTransform, TrainTransform
from vlp.data.images import ImageError, open_photo
transform = {"train": TrainTransform(image_size=16), "eval": EvalTransform(image_size=16)}
files = sorted(p for p in root.rglob("*") if p.is_file())
started = True
bad = 0
if what == "images":
    for file in files:
        try:
            transform["train"].render(open_photo(file), 0)
        except ImageError:
            bad += 1
else:
    for file in files:
        kind = file.name.split("-")[0]
        common = dict(name="x", root=root.parent, transform=transform)
        make = {
            "karpathy": lambda: Karpathy(annotations=f"lists/{file.name}", images="images", **common),
            "table": lambda: Table(table=f"lists/{file.name}", caption="captions", **common),
            "flat": lambda: SalesforceJson(files={"train": f"lists/{file.name}"}, **common),
            "flickr": lambda: Flickr(
                captions_file=f"lists/{file.name}", images="images",
                splits=dict.fromkeys(("train", "val", "test"), "split.txt"), **common),
        }[kind]
        for collect in (False, True):
            data = make()
            data.faults = Faults(collect=collect)
            try:
                data.samples("train")
            except (ValueError, OSError):
                bad += 1
outside = [path for path in reads if path.endswith("secret.jpg") or path.startswith("/etc/passwd")]
print(json.dumps({"files": len(files), "bad": bad, "outside": outside}))
"""


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(generator.integers(1, 9))):
        position = int(generator.integers(len(changed)))
        kind = int(generator.integers(4))
        if kind == 0:
            changed[position] = int(generator.integers(256))
        elif kind == 1:
            del changed[position : position + int(generator.integers(1, 40))]
        elif kind == 2:
            changed[position:position] = bytes(
                generator.integers(0, 256, int(generator.integers(1, 20)), dtype=np.uint8)
            )
        else:
            del changed[max(position, 1) :]
        if not changed:
            break
    return bytes(changed)


def fuzz(folder: Path, what: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-c", FUZZ, str(folder), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])  # a signal would be negative
    return json.loads(done.stdout)


def test_a_thousand_mutated_images_end_in_pixels_or_a_sentence(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    (tmp_path / "fuzz").mkdir()
    originals = [
        encoded(noise(n, (40, 30)).quantize(32) if kind == "GIF" else noise(n, (40, 30)), kind)
        for n, kind in enumerate(kinds)
    ]
    for number in range(1000):
        data = mutate(originals[number % len(kinds)], generator)
        (tmp_path / "fuzz" / f"{number}.{kinds[number % len(kinds)].lower()}").write_bytes(data)
    found = fuzz(tmp_path / "fuzz", "images")
    assert found["files"] == 1000
    assert 200 < found["bad"] < 1000
    assert found["outside"] == []


def test_two_hundred_mutated_annotation_files_end_in_samples_or_a_sentence(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    (tmp_path / "images").mkdir()
    (tmp_path / "lists").mkdir()
    (tmp_path / "secret.jpg").write_bytes(PHOTO)
    names = [f"{number}.jpg" for number in range(6)]
    hostile = ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg"]
    captions = [{"image": name, "captions": ["a dog", "two"], "split": "train"} for name in names + hostile]
    listed = [
        {"split": "train", "filename": name, "imgid": number, "sentences": [{"raw": "a dog"}]}
        for number, name in enumerate(names + hostile)
    ]
    originals = {
        "karpathy": json.dumps({"images": listed}),
        "table": "\n".join(map(json.dumps, captions)),
        "flat": json.dumps([{"image": name, "caption": "a dog"} for name in names + hostile]),
        "flickr": "\n".join(f"{name}#0\ta dog ." for name in names + hostile),
    }  # fmt: skip
    (tmp_path / "split.txt").write_text("\n".join(names))
    endings = {"karpathy": "json", "table": "jsonl", "flat": "json", "flickr": "txt"}
    for number in range(200):
        kind = list(originals)[number % 4]
        data = mutate(originals[kind].encode(), generator)
        (tmp_path / "lists" / f"{kind}-{number}.{endings[kind]}").write_bytes(data)
    found = fuzz(tmp_path / "lists", "lists")
    assert found["files"] == 200
    assert found["bad"] > 100
    assert found["outside"] == []
