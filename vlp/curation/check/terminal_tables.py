"""The findings of `vlp data check` for the terminal. Texts of others stand there as they are: no markup, no control codes."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from vlp.curation.check.check import CheckReport
from vlp.system.tables import table
from vlp.system.units import printable


def tables(report: CheckReport) -> list[Table]:
    found = [_sizes(report), _findings(report)]
    if report.overlap is not None and (report.overlap.overlaps or report.overlap.captions):
        found.append(_overlaps(report))
    return found


def _sizes(report: CheckReport) -> Table:
    numbers = ["samples", "images", "captions", "questions", "shorter side, px", "longest text, tokens"]
    rows = []
    for name, split in report.splits.items():
        sides = split.shapes.get("shorter_side")
        side = "–" if sides is None else f"{sides['min']} … {sides['median']} … {sides['max']}"
        longest = "–" if split.lengths is None else f"{split.lengths.longest} of {split.lengths.context}"
        counts = (split.samples, split.images, split.captions, split.questions)
        rows.append([printable(name), *(f"{count:,}" for count in counts), side, longest])
    return table(["split", *numbers], rows, title="what is there", numbers=numbers)


def _findings(report: CheckReport) -> Table:
    rows: list[list[str | Text]] = []
    for name, split in report.splits.items():
        for finding in sorted(split.findings, key=lambda finding: (not finding.fatal, -finding.count)):
            kind = Text(finding.kind, style="bold red" if finding.fatal else "")
            row: list[str | Text] = [printable(name), f"{finding.count:,}", kind, "yes" if finding.fatal else ""]
            rows.append([*row, printable(finding.examples[0], 300)])
    columns = ["split", "count", "fault", "ends a run", "for example"]
    return table(columns, rows or [["all", "0", "nothing", "", ""]], title="what is wrong")


def _overlaps(report: CheckReport) -> Table:
    assert report.overlap is not None
    rows = []
    for overlap in report.overlap.overlaps:
        shown = "; ".join(f"{example.left} = {example.right}" for example in overlap.examples[:2])
        row = (overlap.left, overlap.right, f"{overlap.count:,}", f"photos: {overlap.how}", shown)
        rows.append([printable(cell) for cell in row])
    for shared in report.overlap.captions:
        row = (shared.left, shared.right, f"{shared.count:,}", "captions, word for word", shared.examples[0])
        rows.append([printable(cell, 120) for cell in row])
    return table(["left", "right", "count", "in both", "for example"], rows, title="overlaps")
