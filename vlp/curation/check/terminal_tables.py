"""The report of `vlp data check` for the terminal. Texts of the data are printed without markup and control codes."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from vlp.curation.check.check import CheckReport
from vlp.curation.duplicates.overlap import OverlapReport
from vlp.system.tables import build_table
from vlp.system.units import printable


def report_tables(report: CheckReport) -> list[Table]:
    tables = [_count_table(report), _issue_table(report)]
    if report.overlap is not None and (report.overlap.overlaps or report.overlap.captions):
        tables.append(_overlap_table(report.overlap))
    return tables


def _count_table(report: CheckReport) -> Table:
    numbers = ["samples", "images", "captions", "questions", "shorter side, px", "longest text, tokens"]
    rows = []
    for name, split in report.splits.items():
        sides = split.shapes.get("shorter_side")
        side = "–" if sides is None else f"{sides['min']} … {sides['median']} … {sides['max']}"
        longest = "–" if split.lengths is None else f"{split.lengths.longest} of {split.lengths.context}"
        counts = (split.samples, split.images, split.captions, split.questions)
        rows.append([printable(name), *(f"{count:,}" for count in counts), side, longest])
    return build_table(["split", *numbers], rows, title="counts", numbers=numbers)


def _issue_table(report: CheckReport) -> Table:
    rows: list[list[str | Text]] = []
    for name, split in report.splits.items():
        for issue in split.sorted_findings():
            kind = Text(issue.kind, style="bold red" if issue.fatal else "")
            fatal = "yes" if issue.fatal else ""
            rows.append([printable(name), f"{issue.count:,}", kind, fatal, printable(issue.examples[0], 300)])
    columns = ["split", "count", "fault", "ends a run", "for example"]
    return build_table(columns, rows or [["all", "0", "nothing", "", ""]], title="faults")


def _overlap_table(report: OverlapReport) -> Table:
    rows = []
    for overlap in report.overlaps:
        examples = "; ".join(f"{example.left} = {example.right}" for example in overlap.examples[:2])
        row = (overlap.left, overlap.right, f"{overlap.count:,}", f"photos: {overlap.how}", examples)
        rows.append([printable(cell) for cell in row])
    for shared in report.captions:
        row = (shared.left, shared.right, f"{shared.count:,}", "captions, word for word", shared.examples[0])
        rows.append([printable(cell, 120) for cell in row])
    return build_table(["left", "right", "count", "in both", "for example"], rows, title="overlaps")
