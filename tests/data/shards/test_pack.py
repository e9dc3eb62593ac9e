from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from vlp.data.images import ImageError, open_image
from vlp.data.shards.manifest import MANIFEST_NAME, parse_shard_manifest
from vlp.data.shards.pack import PackOptions, pack_splits
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.shards import Shards
from vlp.system.errors import UserError

PackedShard = Callable[..., Path]


def test_what_was_packed_comes_back(
    packed: PackedShard, shards: Callable[..., Shards], toy: Callable[..., Karpathy]
) -> None:
    root, data = packed(), toy({"train": 37, "val": 5, "test": 5})
    for split in ("train", "val", "test"):
        before = {sample.id: sample for sample in data.split(split)}
        after = shards(root).split(split)
        assert len(after) == len(before)
        for sample in after:
            own = before[sample.id]
            assert (sample.captions, sample.sample) == (own.captions, own.sample)
            assert np.array_equal(np.asarray(open_image(sample.image)), np.asarray(open_image(own.image)))
            assert np.array_equal(np.asarray(open_image(str(sample.image))), np.asarray(open_image(own.image)))


def test_other_tools_read_the_shards(packed: PackedShard) -> None:
    webdataset = pytest.importorskip("webdataset")
    names = sorted(map(str, packed().glob("train-*.tar")))
    found = list(webdataset.WebDataset(names, shardshuffle=False).decode("pil").to_tuple("png", "txt", "json"))
    assert len(found) == 37
    for image, text, record in found:
        assert image.size == (24, 20)
        assert text == record["captions"][0]


def test_packing_again_gives_the_same_bytes_and_touches_nothing(packed: PackedShard) -> None:
    root = packed()
    before = {path.name: path.read_bytes() for path in root.iterdir()}
    assert {path.name: path.read_bytes() for path in packed(workers=2).iterdir()} == before


def test_the_manifest_has_numbers_and_checksums(packed: PackedShard) -> None:
    root = packed()
    manifest = parse_shard_manifest((root / "manifest.json").read_text(), location="here")
    assert [shard.samples for shard in manifest.splits["train"]] == [7] * 5 + [2]
    assert {path.name for path in root.iterdir()} == {
        "manifest.json", *(shard.name for shards in manifest.splits.values() for shard in shards)
    }  # fmt: skip
    with tarfile.open(root / "train-00000.tar") as archive:
        assert all((member.mtime, member.uid, member.uname) == (0, 0, "") for member in archive)


@pytest.mark.parametrize("broken", [b"", b"<html>404</html>"])
def test_what_cannot_be_read_is_left_out_of_training_and_an_error_elsewhere(
    toy: Callable[..., Karpathy], tmp_path: Path, broken: bytes
) -> None:
    data = toy({"train": 37})
    samples = data.split("train")
    Path(str(samples[3].image)).write_bytes(broken)
    manifest = pack_splits(
        {"train": samples}, tmp_path / "out", PackOptions(samples_per_shard=10, max_bad_fraction=0.1)
    )
    assert manifest.left_out == {"train": 1}
    assert sum(shard.samples or 0 for shard in manifest.splits["train"]) == len(samples) - 1
    with pytest.raises(ImageError, match="would change the metric"):
        pack_splits({"val": samples}, tmp_path / "other", PackOptions())
    with pytest.raises(ImageError, match=r"1 of 37 train samples cannot be packed.*3\.png"):
        pack_splits({"train": samples}, tmp_path / "third", PackOptions(max_bad_fraction=0.0))


def test_photos_become_smaller_and_boxes_with_them(toy: Callable[..., Karpathy], tmp_path: Path) -> None:
    (sample,) = list(toy().split("train"))[:1]
    large = tmp_path / "large.jpg"
    PIL.Image.effect_noise((400, 200), 40).convert("RGB").save(large)
    boxes = ((0.0, 0.0, 50.0, 50.0), (100.0, 50.0, 300.0, 100.0))
    boxed = replace(sample, image=large, boxes=boxes, box_labels=(2, 3), box_crowds=(False, True))
    cropped = replace(boxed, crop=(100, 0, 300, 200))
    framed = replace(boxed, captions=("a", "b"), box_labels=(), box_crowds=(), border=60)
    pack_splits({"train": [boxed, cropped, framed]}, tmp_path / "out", PackOptions(side=100, shuffle=False))
    found = Shards(name="s", root=tmp_path / "out", cache=tmp_path / "cache", transform={"train": len, "eval": len})
    whole, part, inner = found.split("train")
    assert open_image(whole.image).size == (200, 100)
    assert whole.boxes == ((0.0, 0.0, 25.0, 25.0), (50.0, 25.0, 150.0, 50.0))
    assert open_image(part.image).size == (100, 100)
    assert part.boxes == ((0.0, 25.0, 100.0, 50.0),)
    assert (part.box_labels, part.box_crowds) == ((3,), (True,))
    assert open_image(inner.image).size == (280, 80)
    assert (inner.boxes, inner.box_captions, inner.border) == ((pytest.approx((40.0, 0.0, 240.0, 40.0)),), (1,), 0)
    masked = replace(boxed, box_masks=([[1, 1, 2, 1, 2, 2]],) * 2)
    with pytest.raises(UserError, match=r"large\.jpg: masks cannot be made smaller with their photo"):
        pack_splits({"train": [masked]}, tmp_path / "masked", PackOptions(side=100))
    pack_splits({"train": [masked]}, tmp_path / "unchanged", PackOptions())
    found = Shards(
        name="s", root=tmp_path / "unchanged", cache=tmp_path / "cache", transform={"train": len, "eval": len}
    )
    assert found.split("train")[0].box_masks == masked.box_masks


SCRIPT = """
import sys, time
from pathlib import Path
import vlp.data.shards.pack as pack
from vlp.structures import Sample
plain = pack.pack_shard
def slow(*arguments, **named):
    result = plain(*arguments, **named)
    print(arguments[0], flush=True)
    time.sleep(0.2)
    return result
pack.pack_shard = slow
image = Path(sys.argv[1])
samples = [Sample(id=i, sample=i, image=image, captions=(f"caption {i}",)) for i in range(40)]
pack.pack_splits({"train": samples}, Path(sys.argv[2]), pack.PackOptions(samples_per_shard=4))
"""


def test_a_killed_packing_goes_on_where_it_was(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "a.png"), str(tmp_path / "out")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for _ in range(3):
        first.stdout.readline()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("train-*.tar")}
    assert 3 <= len(done) < 10
    assert not (tmp_path / "out" / "manifest.json").exists()
    time.sleep(0.01)
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("train-*.tar")}
    assert len(after) == 10
    assert {name: after[name] for name in done} == done
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())["splits"]["train"]
    assert sum(shard["samples"] for shard in listed) == 40


def test_an_interrupted_packing_leaves_no_manifest_of_the_one_before(
    toy: Callable[..., Karpathy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = list(toy().split("train"))
    options = PackOptions(samples_per_shard=1, shuffle=False)
    pack_splits({"train": samples}, tmp_path / "out", options)
    assert (tmp_path / "out" / MANIFEST_NAME).exists()
    other = [replace(sample, captions=("another",)) for sample in samples]
    replaced = os.replace

    def stops(source: Any, target: Any) -> None:
        replaced(source, target)
        if str(target).endswith("train-00000.tar"):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stops)
    with pytest.raises(KeyboardInterrupt):
        pack_splits({"train": other}, tmp_path / "out", options)
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()


def test_numbers_must_make_sense(tmp_path: Path) -> None:
    for wrong in ({"samples_per_shard": 0}, {"workers": 0}):
        changed: dict[str, Any] = wrong
        with pytest.raises(ValueError, match="above 0"):
            pack_splits({}, tmp_path, PackOptions(**changed))
