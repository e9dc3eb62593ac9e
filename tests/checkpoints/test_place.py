"""Which file a path of a checkpoint means, and its sha256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlp.checkpoints.place import weights_place, weights_sha256


def test_a_run_folder_is_its_best_checkpoint_or_else_its_last(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"last")
    assert weights_place(tmp_path / "run") == folder / "last.ckpt"
    (folder / "best.ckpt").write_bytes(b"best")
    assert weights_place(tmp_path / "run") == folder / "best.ckpt"
    assert (
        weights_sha256(tmp_path / "run") == weights_sha256(folder / "best.ckpt") == hashlib.sha256(b"best").hexdigest()
    )


def test_any_other_folder_is_all_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = weights_sha256(tmp_path)
    assert weights_sha256(tmp_path) == before
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    assert weights_sha256(tmp_path) != before
