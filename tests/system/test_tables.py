from __future__ import annotations

import pytest
from rich.text import Text

from vlp.system.tables import build_table, print_table


def test_cells_are_texts_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    made = build_table(
        ["run [a]", "r1"], [["[bold]x[/bold]", Text("3.5", style="bold")]], title="[red]", numbers=["r1"]
    )
    print_table(made, width=60)
    text = capsys.readouterr().out
    assert all(part in text for part in ("run [a]", "[bold]x[/bold]", "3.5", "[red]"))


def test_a_long_cell_is_wrapped_and_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    word = "".join(str(n % 10) for n in range(90))
    print_table(build_table(["what"], [[word]]), width=40)
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    assert word in "".join(lines)
