"""`vlp data check [key=value …]`: what is wrong with the data that a run of these overrides would read."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vlp.curation.composed_data import add_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exit code 0: nothing that would end a run; 1: something would; 2: the command itself is wrong."
    add_overrides(parser)
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="'KEY=VALUE …'",
        help="another data set to look for the same photos in, as overrides in one string; may be repeated",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with findings and samples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and findings")
    parser.add_argument("--no-pixels", action="store_true", help="do not decode the photos")
    parser.add_argument("--no-overlaps", action="store_true", help="do not look for photos that splits share")
    parser.add_argument("--workers", type=int, default=None, help="processes (as many as processors, at most 4)")


def run(options: argparse.Namespace) -> int:
    from vlp.curation.check.check import check
    from vlp.curation.check.html_report import write_page
    from vlp.curation.check.terminal_tables import tables
    from vlp.curation.composed_data import compose_data, compose_others
    from vlp.system.atomic import atomic_write_text
    from vlp.system.tables import show

    for path in (options.html, options.json):
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {path.parent}; create it first")
    if not any(word.startswith("data=") for word in options.overrides):
        print("no data=… is given: checking the generated scenes", file=sys.stderr)
    data = compose_data(options.overrides)
    report = check(
        data.sources,
        data.tokenizer,
        pixels=not options.no_pixels,
        overlaps=not options.no_overlaps,
        others=compose_others(options.against),
        workers=options.workers,
        progress=lambda told: print(told, file=sys.stderr),
    )
    show(*tables(report))
    if options.json is not None:
        atomic_write_text(options.json, json.dumps(report.plain(), indent=1))
    if options.html is not None:
        write_page(report, options.html)
    return 1 if report.fatal else 0
