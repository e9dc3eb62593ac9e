from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.datasets.splits import pictures
from tests.tars import jpeg, write
from vlp.cli import main
from vlp.data.images import ImageError, read_bytes
from vlp.data.issues import DataError
from vlp.data.shards.pack import PackOptions, pack_splits
from vlp.data.shards.prefetch import ShardPrefetcher
from vlp.datasets.class_folders import ClassFolders
from vlp.datasets.shards import Shards
from vlp.structures import Batch

Build = Callable[..., Shards]
Packed = Callable[..., Path]


def seen(batches: list[Batch]) -> list[list[int]]:
    return [batch.id.tolist() for batch in batches]


def test_training_reads_every_sample_once_an_epoch_whatever_the_sizes_of_shards(packed: Packed, shards: Build) -> None:
    root = packed({"train": 40, "val": 5, "test": 5}, samples_per_shard=9)
    data = shards(root, batch_size=8)
    data.setup("fit")
    assert data.steps_per_epoch == 5
    epochs = []
    for epoch in (0, 1):
        assert data.sampler is not None
        data.sampler.set_epoch(epoch)
        epochs.append(seen(list(data.train_dataloader())))
    for epoch in epochs:
        assert sorted(number for batch in epoch for number in batch) == list(range(40))
    assert epochs[0] != epochs[1]


def test_two_processes_have_the_batches_of_one_and_equal_steps(packed: Packed, shards: Build) -> None:
    root = packed({"train": 50, "val": 5, "test": 5}, samples_per_shard=9)
    data = shards(root, batch_size=8)
    data.setup("fit")
    assert data.sampler is not None
    whole = seen(list(data.train_dataloader()))
    ranks = []
    for rank in (0, 1):
        data.sampler.rank, data.sampler.world_size = rank, 2
        ranks.append(seen(list(data.train_dataloader())))
    assert [first + second for first, second in zip(*ranks, strict=True)] == whole
    assert len(whole) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_with_the_rest_of_the_epoch_and_other_workers(
    packed: Packed, shards: Build, workers: int
) -> None:
    root = packed({"train": 40, "val": 5, "test": 5}, samples_per_shard=9)
    straight = shards(root, batch_size=8)
    straight.setup("fit")
    assert straight.sampler is not None
    whole = list(straight.train_dataloader())
    state = straight.sampler.state_dict(epoch=0, consumed=16)
    resumed = shards(root, batch_size=8, num_workers=workers)
    resumed.setup("fit")
    resumed.load_state_dict(state)
    rest = list(resumed.train_dataloader())
    assert seen(rest) == seen(whole)[2:]
    for one, other in zip(rest, whole[2:], strict=True):
        assert one.image is not None
        assert other.image is not None
        assert torch.equal(one.image.pixels, other.image.pixels)


def test_other_shards_are_refused_on_resuming(packed: Packed, shards: Build, tmp_path: Path) -> None:
    data = shards(packed({"train": 40, "val": 5, "test": 5}), batch_size=8)
    data.setup("fit")
    assert data.sampler is not None
    state = data.sampler.state_dict(epoch=0, consumed=16)
    other = shards(packed({"train": 40, "val": 5, "test": 5}, samples_per_shard=20), batch_size=8)
    other.setup("fit")
    with pytest.raises(ValueError, match="cannot resume within the data"):
        other.load_state_dict(state)


def test_shards_without_a_manifest_are_counted_or_img2datasets_numbers_taken(packed: Packed, shards: Build) -> None:
    root = packed()
    (root / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"or name them, for example data\.splits\.train"):
        shards(root).split("train")
    splits = {"train": "train-{00000..00003}.tar", "val": ["val-*.tar"]}
    assert len(shards(root, splits=splits).split("train")) == 28
    assert len(shards(root, splits=splits).split("val")) == 5
    assert len(shards(root, splits=splits).split("test")) == 0
    (root / "train-00000_stats.json").write_text(json.dumps({"count": 9, "successes": 6}))
    assert len(shards(root, splits=splits).split("train")) == 27


def test_img2datasets_layout(shards: Build, tmp_path: Path) -> None:
    told = {"url": "http://x/1.jpg", "caption": "a red square", "key": "000000000", "status": "success", "width": 8}
    members = [
        ("000000000.jpg", jpeg()), ("000000000.json", json.dumps(told).encode()), ("000000000.txt", b"a red square"),
        ("000000001.jpg", jpeg()), ("000000001.txt", b" another "),
    ]  # fmt: skip
    write(tmp_path / "00000.tar", members)
    first, second = shards(tmp_path, splits={"train": "00000.tar"}).split("train")
    assert (first.captions, second.captions) == (("a red square",), ("another",))
    assert first.id != second.id
    again, _ = shards(tmp_path, splits={"train": "00000.tar"}).split("train")
    assert again.id == first.id


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        ({"train": "train-{00000..00009}.tar"}, r"4 of 10 train shards of toy are not there: .*train-00006\.tar"),
        ({"train": "none-*.tar"}, "no shard is called"),
        ({"train": ["train-00000.tar", "train-0000{0..1}.tar"]}, "given more than once"),
        ({"train": "train-{00003..00001}.tar"}, "the smaller number first"),
    ],
)
def test_missing_shards_are_told_before_training(packed: Packed, shards: Build, splits: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        shards(packed(), splits=splits).setup("fit")


def test_broken_shards_are_told_before_training(packed: Packed, shards: Build) -> None:
    root = packed()
    shard = root / "train-00001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"\d of 37 train samples of toy are lost.*train-00001\.tar"):
        shards(root).split("train")
    data = shards(root, max_bad_fraction=0.5)
    with pytest.warns(UserWarning, match=r"\d of 37 train samples of toy are lost"):
        data.setup("fit")
    assert 30 < len(data.split("train")) < 37
    assert len(list(data.train_dataloader())) == data.steps_per_epoch
    shard.write_bytes(b"")
    with pytest.raises(DataError, match=r"0 bytes: .*train-00001\.tar"):
        shards(root).split("train")
    shard.write_bytes(b"<html>" * 200)
    with pytest.raises(DataError, match=r"train-00001\.tar: not a tar"):
        shards(root).split("train")
    (root / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: not valid JSON"):
        shards(root).split("train")


def test_a_manifest_cannot_name_files_elsewhere(packed: Packed, shards: Build) -> None:
    root = packed()
    told = json.loads((root / "manifest.json").read_text())
    for name in ("../secret.tar", "/etc/passwd", "a/../../b.tar", "file:///etc/passwd"):
        told["splits"]["train"][0]["name"] = name
        (root / "manifest.json").write_text(json.dumps(told))
        with pytest.raises(DataError, match="no plain path below"):
            shards(root).split("train")


def test_damage_within_a_shard_is_replaced_and_listed_and_an_error_in_evaluation(
    packed: Packed, shards: Build, tmp_path: Path
) -> None:
    root = packed({"train": 40, "val": 5, "test": 5})
    for split in ("train", "val"):
        sample = shards(root).split(split)[2]
        with open(sample.image.archive, "r+b") as stream:  # type: ignore[union-attr]
            stream.seek(sample.image.offset + 60)  # type: ignore[union-attr]
            stream.write(b"\0" * 200)
    data = shards(root, batch_size=8, max_bad_fraction=0.1)
    data.issues_path = tmp_path / "data_issues.jsonl"
    data.setup("fit")
    assert [len(batch) for batch in data.train_dataloader()] == [8] * 5
    (line,) = [json.loads(line) for line in (tmp_path / "data_issues.jsonl").read_text().splitlines()]
    assert "train-00000.tar!" in line["file"]
    assert line["reason"].startswith("damaged")
    with pytest.raises(ImageError, match=r"would change the metric.*val-00000\.tar"):
        list(data.val_dataloader())


def test_one_shard_serves_several_workers_of_several_processes(packed: Packed, shards: Build) -> None:
    data = shards(packed({"train": 40, "val": 5, "test": 5}, samples_per_shard=100), batch_size=8, num_workers=3)
    data.setup("fit")
    assert data.sampler is not None
    data.sampler.rank, data.sampler.world_size = 1, 2
    assert sum(map(len, data.train_dataloader())) == 20


def test_a_subset_is_of_whole_shards_but_the_last(packed: Packed, shards: Build) -> None:
    data = shards(packed({"train": 40, "val": 5, "test": 5}), max_train_samples=17)
    assert len(data.split("train")) == 17
    assert len({sample.image.archive for sample in data.split("train")}) == 3  # type: ignore[union-attr]


def test_what_shards_cannot_do_is_told(packed: Packed, shards: Build) -> None:
    with pytest.raises(ValueError, match=r"data\.captions=all"):
        shards(packed(), captions="all")
    with pytest.raises(ValueError, match=r"data\.block=0"):
        shards(packed(), block=0)


def test_a_kept_index_that_is_cut_off_is_made_again(packed: Packed, shards: Build, tmp_path: Path) -> None:
    root = packed()
    before = [sample.captions for sample in shards(root).split("train")]
    kept = list((tmp_path / "cache").rglob("*.npz"))
    assert len(kept) == 6
    for file, size in zip(kept, (0, 1, 30, 200, 400, 10**6), strict=True):
        file.write_bytes(file.read_bytes()[:size])
    assert [sample.captions for sample in shards(root).split("train")] == before


def test_damage_that_was_told_once_is_told_again(packed: Packed, shards: Build) -> None:
    root = packed()
    (root / "manifest.json").unlink()
    shard = root / "val-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-11_000])
    for _ in range(2):
        with pytest.raises(DataError, match="leaving them out of val would change the metric"):
            shards(root, splits={"val": "val-*.tar"}).split("val")


def test_a_shard_of_other_content_is_refused(packed: Packed, shards: Build) -> None:
    root = packed()
    shard = root / "train-00001.tar"
    shard.write_bytes(shard.read_bytes() + b"\0" * 1024)
    with pytest.raises(DataError, match=r"train-00001\.tar: \d+ bytes, the manifest says"):
        shards(root).split("train")


def test_lost_samples_of_all_shards_count_together(packed: Packed, shards: Build) -> None:
    root = packed()
    for number in range(4):
        shard = root / f"train-0000{number}.tar"
        shard.write_bytes(shard.read_bytes()[:-11_000])
    with pytest.raises(DataError, match=r"\d of 37 train samples of toy are lost"):
        shards(root, max_bad_fraction=0.1).split("train")


def test_loaders_go_to_processes_that_start_afresh(packed: Packed, shards: Build) -> None:
    data = shards(packed())
    ahead = ShardPrefetcher(data.split("train"), data.training_order())  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(ahead))
    again(0, 3)
    assert again.samples[3] == data.split("train")[3]


def test_a_name_that_leads_out_of_the_root_is_refused(packed: Packed, shards: Build) -> None:
    with pytest.raises(DataError, match="no plain path below"):
        shards(packed(), splits={"train": "../secret.tar"}).split("train")


def dotted(folder: Path, *, plain: int = 3) -> Path:
    """A shard with plain names, and three samples whose names have a dot."""
    kinds = (("jpg", jpeg()), ("txt", b"\xef\xbb\xbftext"))
    names = [*map(str, range(plain)), *(f"photo.{number}" for number in range(3))]
    return write(folder / "0.tar", [(f"{name}.{kind}", data) for name in names for kind, data in kinds])


def test_images_that_become_no_sample_are_counted_and_an_error_in_evaluation(shards: Build, tmp_path: Path) -> None:
    dotted(tmp_path)
    with pytest.warns(UserWarning, match=r"3 × image of no sample: .*photo\.0\.jpg"):
        assert len(shards(tmp_path, splits={"train": "0.tar"}).split("train")) == 3
    for split in ("val", "test"):
        with pytest.raises(DataError, match=r"3 × image of no sample: .*photo\.0\.jpg.*would change the metric"):
            shards(tmp_path, splits={split: "0.tar"}).split(split)


def test_the_manifest_of_another_origin_says_what_is_left_out(
    shards: Build, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dotted(tmp_path)
    index = ["data", "index", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert main([*index, "--val", "0.tar"]) == 2
    assert "3 × image of no sample" in capfd.readouterr().err
    assert not (tmp_path / "manifest.json").exists()
    assert main([*index, "--train", "0.tar"]) == 0
    assert "3 × image of no sample" in capfd.readouterr().err
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["left_out"] == {"train": 3}
    with pytest.warns(UserWarning, match=r"3 members of train shards are no samples: 3 of 0\.tar"):
        assert len(shards(tmp_path).split("train")) == 3
    with pytest.raises(DataError, match=r"3 members of val shards are no samples: .* would change the metric"):
        shards(tmp_path, splits={"val": "0.tar"}).split("val")
    check = ["data", "check", "data=shards", f"data.root={tmp_path}", f"data.cache={tmp_path / 'cache'}"]
    assert main([*check, "--workers", "0"]) == 0
    assert "image of no sample" in capfd.readouterr().out
    assert main([*check, "data.splits.val=0.tar", "--workers", "0"]) == 1


@pytest.mark.parametrize("members", [[], [("a.npy", b"x")], [("photo.0.jpg", jpeg()), ("photo.0.txt", b"x")]])
def test_a_shard_without_samples_does_not_pass_in_silence(
    shards: Build, tmp_path: Path, members: list[tuple[str, bytes]], capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "0.tar", members)
    write(tmp_path / "1.tar", [("a.jpg", jpeg()), ("a.txt", b"x")])
    with pytest.warns(UserWarning, match=r"1 train shards have no sample: .*0\.tar"):
        shards(tmp_path, splits={"train": ["0.tar", "1.tar"]}).split("train")
    with pytest.raises(DataError, match=r"0\.tar.*would change the metric"):
        shards(tmp_path, splits={"test": ["0.tar", "1.tar"]}).split("test")
    index = ["data", "index", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert main([*index, "--test", "0.tar", "1.tar"]) == 2
    assert main([*index, "--train", "0.tar", "1.tar"]) == 0
    assert "shard without samples" in capfd.readouterr().err or members[1:]
    with pytest.warns(UserWarning, match="1 train shards have no sample"):
        shards(tmp_path).split("train")


@pytest.mark.parametrize(("kind", "data"), [("txt", "a café"), ("json", '{"caption": "a café"}'), ("cls", "3")])
def test_a_byte_order_mark_is_no_part_of_a_text(shards: Build, tmp_path: Path, kind: str, data: str) -> None:
    members = [("a.jpg", jpeg()), (f"a.{kind}", data.encode("utf-8-sig"))]
    write(tmp_path / "0.tar", members)
    (sample,) = shards(tmp_path, splits={"train": "0.tar"}).split("train")
    assert (sample.captions, sample.label) == ((), 3) if kind == "cls" else (("a café",), None)
    manifest = {"version": 1, "splits": {"train": [{"name": "0.tar", "samples": 1}]}}
    (tmp_path / "manifest.json").write_bytes(json.dumps(manifest).encode("utf-8-sig"))
    assert len(shards(tmp_path).split("train")) == 1


def test_photos_of_every_format_are_packed_as_they_are(shards: Build, loading: dict[str, Any], tmp_path: Path) -> None:
    names = [f"{extension}.{extension}" for extension in ("avif", "jp2", "j2k", "webp", "jpeg")]
    pictures(tmp_path / "cat", *names)
    data = ClassFolders(root=tmp_path, splits={"train": "."}, **loading)
    pack_splits({"train": data.split("train")}, tmp_path / "shards", PackOptions(shuffle=False))
    found = list(shards(tmp_path / "shards").split("train"))
    assert [Path(str(sample.image)).suffix for sample in found] == [".avif", ".jp2", ".jp2", ".jpg", ".webp"]
    for sample, own in zip(found, data.split("train"), strict=True):
        assert read_bytes(sample.image) == read_bytes(own.image)


def test_a_split_of_another_name_is_refused(shards: Build, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.splits\.validation: there is no such split"):
        shards(tmp_path, splits={"validation": "0.tar"})


def test_a_class_may_end_with_a_line_break_and_null_is_no_caption(shards: Build, tmp_path: Path) -> None:
    members = [
        ("a.jpg", jpeg()),
        ("a.cls", b"3\n"),
        ("b.jpg", jpeg()),
        ("b.json", b'{"captions": null}'),
        ("b.txt", b"two"),
    ]
    members += [("c.jpg", jpeg()), ("c.json", b'{"captions": null, "caption": "three"}')]
    write(tmp_path / "0.tar", members)
    first, second, third = shards(tmp_path, splits={"train": "0.tar"}).split("train")
    assert first.label == 3
    assert (second.captions, third.captions) == (("two",), ("three",))
