from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp.report.plots import (
    plot_label_curves,
    plot_loss_curves,
    plot_mix_curves,
    plot_retrieved_captions,
    plot_retrieved_images,
    plot_similarity_matrix,
    read_curves,
)

NASTY = "costs $5 and $6_{x} \\alpha [bold]x[/bold] <b> & " + "many words " * 30


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    for index, mode in enumerate(("RGB", "L", "RGBA")):
        Image.new(mode, (30 + 20 * index, 40)).save(tmp_path / f"{index}.png")
    return [str(tmp_path / f"{index}.png") for index in range(3)]


def colours(path: Path) -> set[tuple[int, int, int]]:
    return {tuple(pixel) for pixel in np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).tolist()}


def test_retrieval_is_green_where_right_and_red_where_wrong(photos: list[str], tmp_path: Path) -> None:
    green, red = (0x1A, 0x98, 0x50), (0xD7, 0x30, 0x27)
    for right, wanted, other in ((True, green, red), (False, red, green)):
        plot_retrieved_images([{"query": NASTY, "results": [(p, 0.5, right) for p in photos]}], tmp_path / "images.png")
        plot_retrieved_captions(
            [{"query": photos[0], "results": [(NASTY, 0.5, right), ("", 0.1, right)]}], tmp_path / "texts.png"
        )
        for name in ("images.png", "texts.png"):
            assert wanted in colours(tmp_path / name)
            assert other not in colours(tmp_path / name)


def test_similarity_matrix(photos: list[str], tmp_path: Path) -> None:
    path = tmp_path / "new" / "matrix.png"
    plot_similarity_matrix(photos, [NASTY, "b", ""], np.random.default_rng(0).random((3, 3)).tolist(), path)
    plot_similarity_matrix(photos[:1], ["a"], [[0.5]], tmp_path / "one.png")
    assert {(68, 1, 84), (253, 231, 36)} <= colours(path)  # viridis' ends: the lowest and the highest score


def test_curves_are_read_from_a_run_that_was_cut_off(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "train/a/itc/loss": 1 / (step + 1), "host": "x"} for step in range(100)]
    rows.append({"step": 100, "val/a/retrieval/text_to_image_r1": 20.0, "train/a/itc/loss": float("nan")})
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 101, "tr')
    curves = read_curves(metrics)
    assert len(curves["train/a/itc/loss"]) == 100
    assert curves["val/a/retrieval/text_to_image_r1"] == [(100, 20.0)]
    assert "host" not in curves
    plot_loss_curves(curves, tmp_path / "loss.png")
    assert Image.open(tmp_path / "loss.png").size[0] > 1000  # two panels
    metrics.write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 1: not JSON"):
        read_curves(metrics)
    with pytest.raises(ValueError, match="no curve to draw"):
        plot_loss_curves({"lr": [(0, 1.0)]}, tmp_path / "x.png")


def test_label_curves_show_each_method_and_the_zero_shot_line(tmp_path: Path) -> None:
    points = {"shots_1": (1.0, 20.0, 3.0), "shots_4": (4.0, 40.0, None), "percent_1": (10.0, 30.0, 1.0)}
    curves = {"figure": "top1", "zero_shot": 35.0, "methods": {"ridge": points, "costs $5": points}}
    plot_label_curves(curves, tmp_path / "with.png")
    plot_label_curves({**curves, "zero_shot": None}, tmp_path / "without.png")
    grey = [0x8A, 0x8A, 0x8A]
    counts = [
        int((np.asarray(Image.open(tmp_path / name).convert("RGB")) == grey).all(2).sum())
        for name in ("with.png", "without.png")
    ]
    assert counts[0] > counts[1] + 100
    for colour in ((0x33, 0x66, 0xCC), (0xE6, 0x87, 0x2E)):  # of the first and the second method
        assert colour in colours(tmp_path / "with.png")
    with pytest.raises(ValueError, match="no point to draw"):
        plot_label_curves({**curves, "methods": {"ridge": {}}}, tmp_path / "none.png")


def test_mix_curves(tmp_path: Path) -> None:
    plot_mix_curves({"top1 of $x": [(0.0, 50.0), (1.0, 70.0)]}, tmp_path / "mix.png")
    assert (0x33, 0x66, 0xCC) in colours(tmp_path / "mix.png")
