"""Problems made for real, in files, limits and overrides: the doctor finds each before a training is started."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.shards.pack import PackOptions, pack_splits
from vlp.data.transforms import EvalTransform
from vlp.datasets.karpathy import Karpathy
from vlp.doctor.machine_checks import check_shared_memory
from vlp.doctor.package_checks import check_versions

pytestmark = pytest.mark.slow  # whole processes, several minutes in all

Visit = Callable[..., tuple[int, dict[str, Any]]]


def photos(root: Path, *, captions: str = "a red circle", missing: int = 0, val: int = 8) -> list[str]:
    """A data set in Karpathy's layout, and the overrides that read it."""
    (root / "images").mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for split, count in (("train", 40), ("val", val), ("test", 8)):
        for _ in range(count):
            number = len(records)
            if number >= missing:
                PIL.Image.new("RGB", (32, 32), (number, 0, 0)).save(root / "images" / f"{number}.png")
            said = [{"raw": f"{captions} {number}"}]
            records.append({"split": split, "filename": f"{number}.png", "imgid": number, "sentences": said})
    (root / "dataset.json").write_text(json.dumps({"images": records}))
    return [
        "data=coco_karpathy", f"data.root={root}", "data.annotations=dataset.json", "data.images=images",
        "data.batch_size=8", "data.num_workers=0", "tokenizer.size=400", "model.vision.channels=4",
        "model.text.width=32", "task=[retrieval]",
    ]  # fmt: skip


def assert_error(found: dict[str, Any], check: str, *words: str) -> None:
    told = found[check]
    assert told["severity"] == "error", told
    assert told["fix"]
    for word in words:
        assert word in told["what"] + told["fix"]


def test_a_healthy_config_has_no_error_and_leaves_nothing(visit: Visit, tmp_path: Path) -> None:
    code, found = visit()
    assert code == 0, [finding for finding in found.values() if finding["severity"] == "error"]
    assert {finding["severity"] for finding in found.values()} == {"fine"}
    assert {"memory.step", "time.finish", "step.taken", "tracking.monitor"} <= set(found)
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_not_there(visit: Visit, tmp_path: Path) -> None:
    code, found = visit(*photos(tmp_path / "coco", missing=5), tiny=False)
    assert code == 1
    assert_error(found, "data.annotations", "5 × missing image", "vlp data check ", "data=coco_karpathy")
    assert "time.finish" not in found


def test_data_that_is_not_there_is_told_once(visit: Visit, tmp_path: Path) -> None:
    code, found = visit("data=coco_karpathy", f"data.root={tmp_path / 'coco'}", tiny=False)
    assert code == 1
    assert_error(found, "data.annotations", "there is no", "vlp data download coco_karpathy", "vlp data check ")
    assert {name for name, told in found.items() if told["severity"] == "error"} == {"data.annotations"}


def test_captions_longer_than_the_context(visit: Visit, tmp_path: Path) -> None:
    words = " ".join(["many", "words", "that", "say", "nothing"] * 4)
    overrides = [*photos(tmp_path / "coco", captions=words), "tokenizer.context_length=8"]
    code, found = visit(*overrides, tiny=False)
    assert code == 0
    assert found["data.text_lengths"]["severity"] == "warning"
    assert "100.0% of" in found["data.text_lengths"]["what"]
    assert "tokenizer.context_length=" in found["data.text_lengths"]["fix"]
    code, found = visit(*overrides, "tokenizer.truncate=false", tiny=False)
    assert code == 1
    assert_error(found, "data.text_lengths", "tokenizer.truncate=true")


def test_no_validation_split_for_the_monitor(visit: Visit, tmp_path: Path) -> None:
    code, found = visit(*photos(tmp_path / "coco", val=0), tiny=False)
    assert code == 1
    assert_error(found, "data.splits", "coco/val is empty")


def test_a_batch_that_processes_cannot_share(visit: Visit) -> None:
    code, found = visit("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3", "trainer.precision=32-true")
    assert code == 1
    assert_error(found, "arithmetic.batch", "16 is not divisible by 3", "data.batch_size=15")


def test_more_devices_than_there_are(visit: Visit) -> None:
    count = len(os.sched_getaffinity(0))
    code, found = visit(
        "trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", f"trainer.devices={16 * count}"
    )
    assert code == 1
    assert_error(found, "machine.devices", f"share {count} processors", f"trainer.devices={count}")


def test_a_disk_too_small_for_the_checkpoints(visit: Visit, small_disk: Path) -> None:
    code, found = visit(f"runs={small_disk}/runs")
    assert code == 1
    assert_error(found, "storage.disk", str(small_disk))
    assert list(small_disk.iterdir()) == []


def test_a_run_folder_that_cannot_be_written(visit: Visit) -> None:
    code, found = visit("runs=/proc/runs")
    assert code == 1
    assert_error(found, "storage.run_folder", "/proc/runs", "runs=$HOME/runs")


def test_a_temporary_folder_on_another_file_system(visit: Visit, tmp_path: Path, small_disk: Path) -> None:
    if not os.path.ismount("/dev/shm"):
        pytest.skip("there is no /dev/shm")
    code, found = visit(TMPDIR="/dev/shm")
    assert code == 0
    assert found["storage.temporary"]["severity"] == "warning"
    assert "export TMPDIR=" in found["storage.temporary"]["fix"]


def test_fewer_shards_than_readers(visit: Visit, tmp_path: Path) -> None:
    photos(tmp_path / "coco")
    transform = {kind: EvalTransform(image_size=16) for kind in ("train", "eval")}
    data = Karpathy(
        name="coco", root=tmp_path / "coco", annotations="dataset.json", images="images", transform=transform
    )
    pack_splits(
        {s: data.split(s) for s in ("train", "val", "test")}, tmp_path / "shards", PackOptions(samples_per_shard=20)
    )
    overrides = ["data=shards", f"data.root={tmp_path / 'shards'}", f"data.cache={tmp_path / 'cache'}"]
    rest = ["data.batch_size=8", "tokenizer.size=400", "model.vision.channels=4", "model.text.width=32"]
    code, found = visit(*overrides, *rest, "data.num_workers=4", "task=[retrieval]", tiny=False)
    assert code == 0
    assert found["arithmetic.shards"]["severity"] == "warning"
    assert "2 training shards for 4 readers" in found["arithmetic.shards"]["what"]
    assert "data.num_workers=2" in found["arithmetic.shards"]["fix"]


def test_a_model_larger_than_the_memory(visit: Visit) -> None:
    code, found = visit("model.text.width=65536", "model.text.layers=40")
    assert code == 1
    assert_error(found, "memory.estimate", "parameters")
    assert found["step.taken"]["severity"] == "warning"


def test_a_batch_larger_than_the_memory(visit: Visit) -> None:
    large = (
        "data.images.train=2000",
        "data.batch_size=2000",
        "model.vision.channels=64",
        "model.vision.image_size=400",
    )
    code, found = visit(*large, seconds="180")  # some 150 GB; the time is for a machine that has other work
    assert code == 1
    assert_error(found, "memory.estimate", "activations", "gradient_cache=")
    assert "time.finish" not in found


def test_wandb_without_key_and_without_server(visit: Visit, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "nobody"), "NETRC": str(tmp_path / "none"), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    code, found = visit("loggers.wandb.mode=online", WANDB_API_KEY="", **home)
    assert code == 1
    assert_error(found, "tracking.wandb", "there is no key", "wandb login")
    code, found = visit("loggers.wandb.mode=online", WANDB_API_KEY="0" * 40, **home)
    assert code == 1
    assert_error(found, "tracking.wandb", "127.0.0.1:9 does not answer", "loggers.wandb.mode=offline")


@pytest.mark.parametrize("name", ["val/scenes/vqa/accuracy", "val/scenes/retrieval/recall"])
def test_a_monitor_that_no_task_gives(visit: Visit, name: str) -> None:
    code, found = visit(f"monitor={name}")
    assert code == 1
    assert_error(found, "tracking.monitor", name, "monitor=val/scenes/retrieval/rsum")


def test_a_warm_up_longer_than_the_training(visit: Visit) -> None:
    code, found = visit("schedule.warmup=1000")
    assert code == 1
    assert_error(found, "arithmetic.warmup", "training of 6 steps", "schedule.warmup=0.1")


def test_accumulation_and_a_queue_longer_than_the_data(visit: Visit) -> None:
    code, found = visit("trainer.accumulate_grad_batches=2", "momentum=0.9", "objectives.itc.queue_size=4096")
    assert code == 1
    assert_error(found, "arithmetic.accumulation", "data.batch_size=32 gradient_cache=16")
    assert found["arithmetic.queue"]["severity"] == "warning"
    assert "objectives.itc.queue_size=12" in found["arithmetic.queue"]["fix"]


def test_a_release_that_is_refused(visit: Visit, tmp_path: Path) -> None:
    for name, version in (("lightning", "2.6.3"), ("timm", "0.9.1")):
        folder = tmp_path / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    code, found = visit(PYTHONPATH=str(tmp_path / "site"))
    assert code == 1
    assert_error(found, "packages.versions", "timm 0.9.1 is out of range", "pip install 'timm")
    sys.path.insert(0, str(tmp_path / "site"))
    try:
        told = [finding.what for finding in check_versions(["lightning>=2.6.4,<2.8,!=2.6.2,!=2.6.3"])]
    finally:
        sys.path.remove(str(tmp_path / "site"))
    assert told == ["lightning 2.6.3 is refused: that release is known to be harmful (!=2.6.2,!=2.6.3,<2.8,>=2.6.4)"]


def test_a_library_that_the_config_needs(visit: Visit, tmp_path: Path) -> None:
    hidden = tmp_path / "site"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['tensorboard'] = None\n")
    code, found = visit("logger=tensorboard", PYTHONPATH=str(hidden))
    assert code == 1
    assert_error(found, "packages.optional", "loggers.tensorboard needs tensorboard", "vlp[tensorboard]")


def test_too_few_open_files(visit: Visit) -> None:
    code, found = visit("data.num_workers=8", limit="ulimit -n 300")
    assert code == 1
    assert_error(found, "machine.open_files", "may open 300 files", "ulimit -n 4096")


def test_shared_memory_too_small_for_the_workers(small_disk: Path) -> None:
    config = {"data": {"name": "x", "num_workers": 4}, "trainer": {"accelerator": "cpu", "devices": 1}}
    assert check_shared_memory(config, 0, 50_000, small_disk).severity == "fine"
    found = check_shared_memory(config, 0, 300_000, small_disk)
    assert found.severity == "error"
    assert "data.num_workers=1" in found.fix


def test_overrides_that_cannot_be_composed(visit: Visit) -> None:
    code, found = visit("optimizer.lrr=1")
    assert code == 1
    assert_error(found, "config.composes", "optimizer.lr")


def test_time_that_is_up_is_told(visit: Visit) -> None:
    code, found = visit(seconds="4")
    assert code == 0
    assert found["step.taken"]["severity"] == "warning"
    assert "--seconds 16" in found["step.taken"]["fix"]
