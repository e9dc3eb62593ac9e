from __future__ import annotations

from io import StringIO

from rich.console import Console

from vlp.report.tables import retrieval_table


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
