from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.scenes.vcr.conftest import COUNTS
from vlp.scenes.vcr.generate import generate_vcr, is_complete
from vlp.system.errors import UserError


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_files_have_the_official_layout(questions: Path) -> None:
    for split, count in COUNTS.items():
        rows = [json.loads(line) for line in lines(questions / f"{split}.jsonl")]
        assert [row["annot_id"] for row in rows] == [f"{split}-{number}" for number in range(count)]
        for row in rows:
            assert (questions / "vcr1images" / row["img_fn"]).is_file()
            metadata = json.loads((questions / "vcr1images" / row["metadata_fn"]).read_text())
            assert len(metadata["boxes"]) == len(metadata["segms"]) == len(metadata["names"]) == len(row["objects"])
            assert (metadata["width"], metadata["height"]) == (64, 64)
    assert not (questions / "mixed/train.jsonl").exists()
    for split in ("val", "test"):
        pairs = zip(lines(questions / f"{split}.jsonl"), lines(questions / "mixed" / f"{split}.jsonl"), strict=True)
        for official, mixed in pairs:
            one, other = json.loads(official), json.loads(mixed)
            assert one["answer_choices"] == other["answer_choices"]
            assert one["rationale_choices"] != other["rationale_choices"]


def test_a_larger_set_begins_with_the_smaller_one(questions: Path, tmp_path: Path) -> None:
    generate_vcr(tmp_path / "few", images={"train": 5, "val": 2}, seed=3)
    for split, count in (("train", 5), ("val", 2)):
        assert lines(tmp_path / "few" / f"{split}.jsonl") == lines(questions / f"{split}.jsonl")[:count]
        names = (f"vcr1images/{split}/{number:07d}.png" for number in range(count))
        assert all((tmp_path / "few" / name).read_bytes() == (questions / name).read_bytes() for name in names)


def test_a_finished_set_is_kept_and_another_is_refused(questions: Path) -> None:
    request: dict[str, Any] = {"images": COUNTS, "size": 64, "seed": 3}
    before = (questions / "manifest.json").stat().st_mtime_ns
    generate_vcr(questions, **request)
    assert (questions / "manifest.json").stat().st_mtime_ns == before
    assert is_complete(questions, **request)
    assert not is_complete(questions, **{**request, "seed": 4})
    with pytest.raises(FileExistsError, match="something other than the wanted scenes"):
        generate_vcr(questions, **{**request, "seed": 4})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": {}}, "above 0"), ({"images": {"train": 0}}, "above 0"), ({"images": {"restval": 3}}, "train, val, test"),
        ({"images": {"train": 1}, "size": 32}, "at least 64"),
    ],
)  # fmt: skip
def test_settings_are_checked(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate_vcr(tmp_path / "x", **wrong)  # type: ignore[arg-type]
