"""The findings of `vlp data check` for the terminal. Texts of others stand there as they are: no markup, no control codes."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from vlp.data.check.check import CheckReport
from vlp.system.units import printable


def tables(report: CheckReport) -> list[Table]:
    found = [_sizes(report), _findings(report)]
    if report.overlap is not None and (report.overlap.overlaps or report.overlap.captions):
        found.append(_overlaps(report))
    return found


def _sizes(report: CheckReport) -> Table:
    table = Table("split", title="what is there", title_style="bold", header_style="")
    for name in ("samples", "images", "captions", "questions", "shorter side, px", "longest text, tokens"):
        table.add_column(name, justify="right")
    for name, split in report.splits.items():
        sides = split.shapes.get("shorter_side")
        told = "–" if sides is None else f"{sides['min']} … {sides['median']} … {sides['max']}"
        longest = "–" if split.lengths is None else f"{split.lengths.longest} of {split.lengths.context}"
        counts = (split.samples, split.images, split.captions, split.questions)
        table.add_row(Text(printable(name)), *(f"{count:,}" for count in counts), told, longest)
    return table


def _findings(report: CheckReport) -> Table:
    table = Table(
        "split",
        "count",
        "fault",
        "ends a run",
        "for example",
        title="what is wrong",
        title_style="bold",
        header_style="",
    )
    for name, split in report.splits.items():
        for finding in sorted(split.findings, key=lambda finding: (not finding.fatal, -finding.count)):
            kind = Text(finding.kind, style="bold red" if finding.fatal else "")
            row = (Text(printable(name)), f"{finding.count:,}", kind, "yes" if finding.fatal else "")
            table.add_row(*row, Text(printable(finding.examples[0], 300)))
    if not table.row_count:
        table.add_row("all", "0", "nothing", "", "")
    return table


def _overlaps(report: CheckReport) -> Table:
    assert report.overlap is not None
    table = Table(
        "left", "right", "count", "in both", "for example", title="overlaps", title_style="bold", header_style=""
    )
    for overlap in report.overlap.overlaps:
        shown = "; ".join(f"{example.left} = {example.right}" for example in overlap.examples[:2])
        row = (overlap.left, overlap.right, f"{overlap.count:,}", f"photos: {overlap.how}", shown)
        table.add_row(*(Text(printable(cell)) for cell in row))
    for shared in report.overlap.captions:
        row = (shared.left, shared.right, f"{shared.count:,}", "captions, word for word", shared.examples[0])
        table.add_row(*(Text(printable(cell, 120)) for cell in row))
    return table
