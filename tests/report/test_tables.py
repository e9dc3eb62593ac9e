from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from vlp.report.tables import print_results, retrieval_table


def test_rows_figures_and_what_is_missing() -> None:
    rows = {"vlp [seed 0]": {"image_to_text_r1": 33.25, "text_to_image_r10": 70.0}, "chance": {"image_to_text_r1": 0.2}}
    out = StringIO()
    Console(file=out, width=120).print(retrieval_table(rows, title="scenes [test]"))
    lines = out.getvalue().splitlines()
    (model,) = [line for line in lines if "vlp [seed 0]" in line]
    assert "33.2" in model
    assert "70.0" in model
    assert model.count("–") == 4
    assert any("chance" in line and "0.20" in line for line in lines)
    assert "scenes [test]" in lines[0]


def test_figures_against_labels_are_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "test/cifar/label_efficiency"
    figures = {f"{name}/zero_shot": 33.3, f"{name}/ridge_shots_4": 45.67, f"{name}/ridge_shots_4_interval": 1.2}
    figures |= {f"{name}/ridge_percent_10": 55.0, f"{name}/knn_shots_16": 50.0}
    print_results({**figures, f"{name}/ridge_percent_10_interval": None, "seconds": 2.0}, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    (heading,) = (line for line in lines if "a class" in line)
    assert heading.index("4 a class") < heading.index("16 a class") < heading.index("10 %")
    (ridge,) = (line for line in lines if "ridge" in line)
    assert ridge.replace("│", " ").split() == ["ridge", "45.7", "–", "55.0"]
    assert any("± 1.2" in line for line in lines)
    assert any("zero-shot: 33.3" in line for line in lines)
