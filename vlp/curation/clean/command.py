"""`vlp data clean OUT.jsonl [key=value …]`: lists the data of a run without near duplicates and bad captions."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlp.curation.composed_data import add_data_set_option, add_override_arguments
from vlp.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Nothing is deleted: OUT.jsonl lists the kept samples, and data=table data.root=ROOT data.table=OUT.jsonl "
        "data.caption=captions trains on it. --set changes what is dropped: `--set help` lists the options."
    )
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.jsonl", help="the list to write")
    add_override_arguments(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a threshold, 0 or false switches it off; may be repeated",
    )
    add_data_set_option(parser, "--evaluation", "a data set whose photos must not be trained on")
    parser.add_argument(
        "--root", type=Path, metavar="ROOT", help="folder that image paths are written relative to (data.root)"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what was dropped, and why, as JSON")


def run(options: argparse.Namespace) -> None:
    import sys

    from vlp.curation.clean.clean import clean_data
    from vlp.curation.clean.options import options_help, parse_options
    from vlp.curation.clean.report import write_sample_table
    from vlp.curation.composed_data import build_only_source, build_sources_of_lines, files_of_data
    from vlp.data.datamodule import SPLITS
    from vlp.data.issues import Faults
    from vlp.datasets.shards import Shards
    from vlp.system.atomic import atomic_write_text, check_output_file
    from vlp.system.tables import print_table
    from vlp.system.units import printable

    if "help" in options.set:
        print(options_help(), end="")
        return
    if options.out is None or "=" in str(options.out):
        raise UserError(f"{options.out}: the first word is the list to write, before any KEY=VALUE")
    settings = parse_options(options.set)
    if options.report is not None and options.report.resolve() == options.out.resolve():
        raise UserError(f"--report {options.report}: is the list to write; choose another file")
    for path, suffixes in ((options.out, (".jsonl", ".ndjson")), (options.report, (".json",))):
        if path is not None:
            check_output_file(path, suffixes=suffixes, inputs=files_of_data(options.overrides))
    source = build_only_source(options.overrides, "clean")
    if isinstance(source, Shards):
        raise UserError("clean the data from which the shards were packed: a list cannot name files within shards")
    evaluation = {
        f"{name}/{split}": other.split(split)
        for name, other in build_sources_of_lines(options.evaluation).items()
        for split in SPLITS
    }
    source.faults = Faults(collect=True)  # unreadable records are left out and reported
    kept, report = clean_data({split: list(source.samples(split)) for split in SPLITS}, settings, evaluation=evaluation)
    print_table(*report.tables())
    for issue in source.faults.issues.values():
        print(f"{issue.count} × {printable(issue.kind)}: {printable(issue.examples[0], 200)}", file=sys.stderr)
    for split, after in report.after.items():
        if report.before[split]["images"] and not after["images"]:
            raise UserError(
                f"no sample of {split} would be kept: switch off with --set what drops too much (`--set help` lists the options), "
                f"such as --set phrase_share=0; {options.out} is not written"
            )
    root = options.root or source.root
    write_sample_table(kept, options.out, root=root, class_names=source.class_names)
    if options.report is not None:
        atomic_write_text(options.report, report.to_json())
    label = "" if source.class_names is None else " data.label=label"
    overrides = f"data=table data.root={root} data.table={options.out.resolve()} data.caption=captions{label}"
    print(f"written: {options.out}; to train on it: {overrides}", file=sys.stderr)
