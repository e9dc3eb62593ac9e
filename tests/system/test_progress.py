from __future__ import annotations

import ast
from pathlib import Path

import pytest

from vlp.system.progress import Progress

VLP = Path(__file__).resolve().parents[2] / "vlp"


def test_without_a_terminal_there_are_lines_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pairs", line_every=0.0) as progress:
        progress.update("reranking", 0, 4)
        progress.update("reranking", 1000, 4000)
        progress.update("counting", 7)
    out, lines = capsys.readouterr()
    assert out == "", "results are on stdout"
    first, second, third = lines.splitlines()
    assert first == "reranking: 0 of 4 pairs"
    assert second.startswith("reranking: 1,000 of 4,000 pairs, about ")
    assert third == "counting: 7 pairs"


@pytest.mark.parametrize("settings", [{"show": False, "line_every": 0.0}, {"line_every": 60.0}])
def test_lines_are_rare_and_other_ranks_print_none(settings: dict, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pairs", **settings) as progress:
        for done in range(100):
            progress.update("reranking", done, 100)
    assert capsys.readouterr().err == ""


def test_no_other_library_shows_progress() -> None:
    names = {
        name.split(".")[0]
        for file in VLP.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert "rich" in names
    assert "tqdm" not in names
