"""`vlp data clean OUT.jsonl [key=value …]`: drops near duplicates and bad captions of the data that a run would read."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlp.curation.composed_data import add_overrides
from vlp.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Nothing is deleted: OUT.jsonl lists what stays, and data=table data.root=ROOT data.table=OUT.jsonl "
        "data.caption=captions trains on it. --set names what is dropped: `--set help` lists it."
    )
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.jsonl", help="the list to write")
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

    from vlp.curation.clean.clean import clean
    from vlp.curation.clean.options import chosen, listing
    from vlp.curation.clean.report import write_cleaned
    from vlp.curation.composed_data import compose_data, compose_others
    from vlp.data.datamodule import SPLITS
    from vlp.data.issues import Faults
    from vlp.datasets.shards import Shards
    from vlp.system.atomic import atomic_write_text
    from vlp.system.tables import show
    from vlp.system.units import printable

    if "help" in options.set:
        print(listing(), end="")
        return
    if options.out is None or "=" in str(options.out):
        raise UserError(f"{options.out}: the first word is the list to write, before any KEY=VALUE")
    settings = chosen(options.set)
    source = compose_data(options.overrides).only("clean")
    if isinstance(source, Shards):
        raise UserError("clean the data that the shards are packed of: a list cannot name files within shards")
    others = {
        f"{name}/{split}": other.split(split)
        for name, other in compose_others(options.evaluation).items()
        for split in SPLITS
    }
    source.faults = Faults(collect=True)  # what cannot be read is not there to be cleaned
    kept, report = clean({split: list(source.samples(split)) for split in SPLITS}, settings, evaluation=others)
    show(*report.tables())
    for finding in source.faults.findings.values():
        print(f"{finding.count} × {printable(finding.kind)}: {printable(finding.examples[0], 200)}", file=sys.stderr)
    for split, after in report.after.items():
        if report.before[split]["images"] and not after["images"]:
            raise UserError(
                f"nothing of {split} would stay: switch off with --set what drops too much (`--set help` lists it), such as "
                f"--set phrase_share=0; {options.out} is not written"
            )
    write_cleaned(kept, options.out, root=options.root or source.root, class_names=source.class_names)
    if options.report is not None:
        atomic_write_text(options.report, [report.json()])
    told = (
        f"data=table data.root={options.root or source.root} data.table={options.out.resolve()} data.caption=captions"
    )
    if source.class_names is not None:
        told += " data.label=label"
    print(f"written: {options.out}; to train on it: {told}", file=sys.stderr)
