"""`vlp data check [key=value …]`: the faults of the data that a run with these overrides would read."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vlp.curation.composed_data import add_data_set_option, add_override_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exit code 0: no fault would end a run; 1: some would; 2: the command itself is wrong."
    add_override_arguments(parser)
    add_data_set_option(parser, "--against", "another data set that is searched for the same photos")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with faults and samples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all counts and faults")
    parser.add_argument("--no-pixels", action="store_true", help="do not decode the photos")
    parser.add_argument("--no-overlaps", action="store_true", help="do not search for photos that splits share")
    parser.add_argument("--workers", type=int, default=None, help="processes (as many as processors, at most 4)")


def run(options: argparse.Namespace) -> int:
    from vlp.curation.check.check import check_data
    from vlp.curation.check.html_report import write_html_report
    from vlp.curation.check.terminal_tables import report_tables
    from vlp.curation.composed_data import build_sources, build_sources_of_lines, files_of_data
    from vlp.system.atomic import atomic_write_text, check_output_file
    from vlp.system.tables import print_table

    for path, suffixes in ((options.html, (".html", ".htm")), (options.json, (".json",))):
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {path.parent}; create it first")
        if path is not None:
            check_output_file(path, suffixes=suffixes, inputs=files_of_data(options.overrides))
    if not any(word.startswith("data=") for word in options.overrides):
        print("no data=… is given: checking the generated scenes", file=sys.stderr)
    sources, tokenizer = build_sources(options.overrides)
    report = check_data(
        sources,
        tokenizer,
        decode_images=not options.no_pixels,
        compare_images=not options.no_overlaps,
        comparison_sources=build_sources_of_lines(options.against),
        workers=options.workers,
        report_progress=lambda message: print(message, file=sys.stderr),
    )
    print_table(*report_tables(report))
    if options.json is not None:
        atomic_write_text(options.json, json.dumps(report.to_dict(), indent=1))
    if options.html is not None:
        write_html_report(report, options.html)
    return 1 if report.fatal else 0
