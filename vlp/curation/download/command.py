"""`vlp data download NAME`: what the catalogue offers, or fetch it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vlp.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Run it again to go on after an interruption: what is complete is neither fetched nor unpacked again."
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a data set (--list names them), or the path of a catalogue of your own"
    )
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="where to ($VLP_DATA/NAME, else data/NAME)")
    parser.add_argument("--only", nargs="+", metavar="PART", default=[], help="parts of the data set, or: all")
    parser.add_argument("--list", action="store_true", help="show parts, sizes, addresses and licence; fetch nothing")
    parser.add_argument(
        "--mirror", metavar="URL", help="take the files from here: replaces https://host in each address"
    )
    parser.add_argument("--jobs", type=int, default=4, help="files at the same time (%(default)s)")
    parser.add_argument("--retries", type=int, default=8, help="for each file, after a failure (%(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds without any data (%(default)s)")
    parser.add_argument("--delete-archives", action="store_true", help="delete archives when they are unpacked")


def run(options: argparse.Namespace) -> None:
    from vlp.curation.download.catalogue import describe, find, offered

    if options.name is None:
        if not options.list:
            raise UserError(f"which data set? There are {', '.join(offered())}")
        for name, file in offered().items():
            print(f"{name:15} {find(str(file)).title}")
        return
    catalogue = find(options.name)
    if options.list:
        print(describe(catalogue, catalogue.choose(options.only or ["all"])), end="")
        return
    for option, least in (("jobs", 1), ("retries", 0), ("timeout", 0.001)):
        if getattr(options, option) < least:
            raise UserError(f"--{option} {getattr(options, option)}: expects at least {least}")
    root = options.root or Path(os.environ.get("VLP_DATA") or "data", catalogue.folder)

    from vlp.curation.download.connection import Patience
    from vlp.curation.download.session import download

    try:
        download(
            catalogue,
            root,
            only=options.only,
            mirror=options.mirror,
            jobs=options.jobs,
            patience=Patience(retries=options.retries, timeout=options.timeout),
            delete_archives=options.delete_archives,
        )
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise
    print(root)
