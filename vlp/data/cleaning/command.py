"""`vlp data clean OUT.jsonl [key=value …]`: drops near duplicates and bad captions of the data that a run would read."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlp.data.overrides import add_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Nothing is deleted: OUT.jsonl lists what stays, and data=table data.root=ROOT data.table=OUT.jsonl "
        "data.caption=captions trains on it. --set names what is dropped: `--set help` lists it."
    )
    parser.add_argument("out", type=Path, metavar="OUT.jsonl", help="the list to write")
    add_overrides(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a threshold, 0 or false switches it off; may be repeated",
    )
    parser.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="'KEY=VALUE …'",
        help="a data set whose photos must not be trained on, as overrides in one string; may be repeated",
    )
    parser.add_argument(
        "--root", type=Path, metavar="ROOT", help="what image paths are written relative to (data.root)"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what was dropped, and why, as JSON")


def run(options: argparse.Namespace) -> None:
    import sys

    from rich.console import Console

    from vlp.data.base import SPLITS
    from vlp.data.cleaning.clean import clean
    from vlp.data.cleaning.options import chosen, listing
    from vlp.data.cleaning.report import write_cleaned
    from vlp.data.composed import compose_data, compose_others
    from vlp.data.whole_files import write_whole

    if "help" in options.set:
        print(listing(), end="")
        return
    if "=" in str(options.out):
        raise ValueError(f"{options.out}: the first word is the list to write, before any KEY=VALUE")
    settings = chosen(options.set)
    data = compose_data(options.overrides)
    if len(data.sources) > 1:
        raise ValueError(f"clean one data set at a time: {', '.join(data.sources)} are several")
    (source,) = data.sources.values()
    others = {
        f"{name}/{split}": other.split(split)
        for name, other in compose_others(options.evaluation).items()
        for split in SPLITS
    }
    kept, report = clean({split: source.split(split) for split in SPLITS}, settings, evaluation=others)
    write_cleaned(kept, options.out, root=options.root or source.root)
    if options.report is not None:
        write_whole(options.report, [report.json()])
    console = Console()
    for table in report.tables():
        console.print(table)
    print(f"written: {options.out}", file=sys.stderr)
