"""`vlp data pack`, `index` and `clean` as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vlp.cli import main

Write = Callable[..., Path]


def data_overrides(root: Path) -> list[str]:
    return ["data=coco_karpathy", f"data.root={root}", "data.annotations=dataset.json", "data.images=images"]


def test_packed_data_are_listed_in_a_manifest_and_can_be_checked(
    write_toy: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    assert main(["data", "pack", str(out), *data_overrides(write_toy()), "--samples", "5", "data.seed=0"]) == 2
    assert "data.seed" in capfd.readouterr().err
    assert main(["data", "pack", str(out), "--samples", "5", *data_overrides(write_toy())]) == 0
    assert "train: 13 samples in 3 shards" in capfd.readouterr().out
    cache = f"data.cache={tmp_path / 'cache'}"
    assert main(["data", "check", "data=shards", f"data.root={out}", cache, "--workers", "0"]) == 0
    shard = out / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[:-1500])
    capfd.readouterr()
    assert main(["data", "check", "data=shards", f"data.root={out}", cache, "--workers", "0", "--no-pixels"]) == 1
    assert "shard" in capfd.readouterr().out


def test_shards_of_another_origin_get_a_manifest(
    write_toy: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    main(["data", "pack", str(out), *data_overrides(write_toy()), "--samples", "5"])
    before = json.loads((out / "manifest.json").read_text())["splits"]
    (out / "manifest.json").unlink()
    cache = ["--cache", str(tmp_path / "cache")]
    assert main(["data", "index", str(out), "--train", "train-*.tar", "--val", "val-00000.tar", *cache]) == 0
    after = json.loads((out / "manifest.json").read_text())["splits"]
    assert after == {split: before[split] for split in ("train", "val")}
    assert main(["data", "index", "s3://bucket", *cache]) == 2
    assert "--out" in capfd.readouterr().err


def test_cleaned_data_can_be_trained_on(write_toy: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = write_toy()
    dataset = json.loads((root / "dataset.json").read_text())
    dataset["images"][0]["sentences"].append({"raw": "see www.example.org/page.html"})
    (root / "dataset.json").write_text(json.dumps(dataset))
    out, report = root / "clean.jsonl", tmp_path / "report.json"
    settings = ["--set", "min_side=0", "--set", "min_letters=0", "--set", "max_digits=1", "--set", "phrase_share=0"]
    assert (
        main(
            ["data", "clean", str(out), *data_overrides(root), *settings, "--set", "workers=1", "--report", str(report)]
        )
        == 0
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert not any("www" in caption for row in rows for caption in row["captions"])
    assert any("address" in reason for reason in json.loads(report.read_text())["dropped"])
    overrides = ["data=table", f"data.root={root}", "data.table=clean.jsonl", "data.caption=captions"]
    assert main(["data", "check", *overrides, "--workers", "0"]) == 0
    assert main(["data", "clean", str(out), *data_overrides(root), "--set", "min_word=3"]) == 2
    assert "did you mean min_words" in capfd.readouterr().err
    assert main(["data", "clean", str(out), "--set", "help"]) == 0
    assert "max_aspect" in capfd.readouterr().out


def test_a_missing_comparison_data_set_is_a_fault(
    write_toy: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    against = f"data=flickr30k data.root={tmp_path / 'nowhere'}"
    assert main(["data", "check", *data_overrides(write_toy()), "--against", against, "--workers", "0"]) == 1
    assert "flickr30k/train" in capfd.readouterr().out


def test_packed_names_determine_their_split(
    write_toy: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    main(["data", "pack", str(out), *data_overrides(write_toy()), "--samples", "5"])
    before = (out / "manifest.json").read_text()
    (out / "manifest.json").unlink()
    assert main(["data", "index", str(out), "--cache", str(tmp_path / "cache")]) == 0
    assert json.loads((out / "manifest.json").read_text())["splits"] == json.loads(before)["splits"]
    assert main(["data", "index", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capfd.readouterr().err


def test_cleaning_that_keeps_nothing_is_refused(
    write_toy: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clean.jsonl"
    assert (
        main(["data", "clean", str(out), *data_overrides(write_toy()), "--set", "min_words=50", "--set", "workers=1"])
        == 2
    )
    assert "no sample of train would be kept" in capfd.readouterr().err
    assert not out.exists()
    assert main(["data", "clean", "--set", "help"]) == 0


def test_samples_that_the_statistics_do_not_count_are_reported(write_toy: Write, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    main(["data", "pack", str(out), *data_overrides(write_toy()), "--samples", "5"])
    (out / "manifest.json").unlink()
    (out / "train-00000_stats.json").write_text('{"successes": 3}')  # of 5
    check = ["data", "check", "data=shards", f"data.root={out}", f"data.cache={tmp_path / 'cache'}", "--workers", "0"]
    report = tmp_path / "report.json"
    assert main([*check, "data.splits.train=train-{00000..00002}.tar", "--json", str(report)]) == 0
    findings = json.loads(report.read_text())["splits"]["shards/train"]["findings"]
    assert [(finding["kind"], finding["count"]) for finding in findings if "beyond" in finding["kind"]] == [
        ("sample beyond the count", 2)
    ]


def test_the_data_are_not_written_over(
    write_toy: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_toy()
    before = (root / "dataset.json").read_bytes()
    table = tmp_path / "elsewhere" / "table.jsonl"
    table.parent.mkdir()
    table.write_text('{"image": "images/0.png", "caption": "a dog", "split": "train"}\n')
    of_table = ["data=table", f"data.root={root}", f"data.table={table}"]
    for arguments, message in (
        (["check", *data_overrides(root), "--json", str(root / "dataset.json")], "would be lost"),
        (["check", *data_overrides(root), "--html", str(root / "images" / "0.png")], "would be lost"),
        (["clean", str(table), *of_table], "would be lost"),
        (
            ["clean", str(table.with_name("new.jsonl")), *of_table, "--report", str(table.with_name("new.jsonl"))],
            "is the list",
        ),
        (["index", str(root), "--train", "*.tar", "--out", str(table)], "exists and is no .json file"),
    ):
        assert main(["data", *arguments]) == 2
        assert message in capfd.readouterr().err
    assert (root / "dataset.json").read_bytes() == before
    assert "a dog" in table.read_text()
