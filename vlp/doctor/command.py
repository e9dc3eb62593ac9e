"""`vlp doctor [key=value …]`: what would go wrong with `vlp train` of the same overrides, before it is started."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from vlp.curation.composed_data import add_override_arguments
from vlp.system.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from vlp.doctor.finding import Finding

COLOURS = {"fine": "green", "warning": "yellow", "error": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Exit code 0: no error; 1: an error that would end or spoil the run; 2: the command itself is wrong."
    )
    add_override_arguments(parser)
    parser.add_argument("--seconds", type=float, default=30.0, help="time for all checks (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    from vlp.doctor.doctor import examine_command

    if options.seconds <= 0:
        raise UserError(f"--seconds expects a number above 0, got {options.seconds:g}")
    begin = time.monotonic()
    findings = examine_command(options.overrides, seconds=options.seconds)
    took = time.monotonic() - begin
    count = {severity: sum(finding.severity == severity for finding in findings) for severity in COLOURS}
    if options.json:
        report = {"findings": [asdict(finding) for finding in findings], "counts": count, "seconds": round(took, 1)}
        print(json.dumps(report, indent=1))
    else:
        print_findings(findings)
        print(f"{count['error']} errors, {count['warning']} warnings, {count['fine']} fine, {took:.1f} s")
    return 1 if count["error"] else 0


def print_findings(findings: Sequence[Finding]) -> None:
    """A table; where there is no terminal, lines that can be searched."""
    from vlp.system import tables
    from vlp.system.progress import on_terminal

    worst = sorted(findings, key=lambda finding: ("error", "warning", "fine").index(finding.severity))
    if on_terminal(stderr=False):
        return tables.print_table(findings_table(worst))
    for finding in worst:
        print(f"{finding.severity}: {finding.check}: {finding.what}")
        if finding.fix:
            print(f"    {finding.fix}")
    sys.stdout.flush()


def findings_table(findings: Sequence[Finding]) -> Table:
    from rich.text import Text

    from vlp.system import tables

    rows: list[list[str | Text]] = []
    for finding in findings:
        what = Text(finding.what).append(f"\n{finding.fix}" if finding.fix else "", style="bold")
        rows.append([Text(finding.severity, style=COLOURS[finding.severity]), finding.check, what])
    return tables.build_table(["", "check", "what"], rows)
