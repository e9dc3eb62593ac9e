"""`vlp data download NAME`: lists or downloads the files of a data set."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vlp.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Run it again to continue after an interruption: what is complete is neither downloaded nor unpacked again."
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a data set (--list names them), or the path of a catalogue of your own"
    )
    parser.add_argument(
        "--root", type=Path, metavar="FOLDER", help="where to store it ($VLP_DATA/NAME, else data/NAME)"
    )
    parser.add_argument("--only", nargs="+", metavar="PART", default=[], help="parts of the data set, or: all")
    parser.add_argument(
        "--list", action="store_true", help="show parts, sizes, addresses and licence; download nothing"
    )
    parser.add_argument(
        "--mirror", metavar="URL", help="another server with the files: replaces https://host in each address"
    )
    parser.add_argument("--jobs", type=int, default=4, help="files at the same time (%(default)s)")
    parser.add_argument("--retries", type=int, default=8, help="for each file, after a failure (%(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds without any data (%(default)s)")
    parser.add_argument("--delete-archives", action="store_true", help="delete archives after they are unpacked")


def run(options: argparse.Namespace) -> None:
    from vlp.curation.download.catalogue import describe_catalogue, list_catalogues, load_catalogue

    if options.name is None:
        if not options.list:
            raise UserError(f"which data set? There are {', '.join(list_catalogues())}")
        for name, file in list_catalogues().items():
            print(f"{name:15} {load_catalogue(str(file)).title}")
        return
    catalogue = load_catalogue(options.name)
    if options.list:
        print(describe_catalogue(catalogue, catalogue.select_parts(options.only or ["all"])), end="")
        return
    for option, minimum in (("jobs", 1), ("retries", 0), ("timeout", 0.001)):
        if getattr(options, option) < minimum:
            raise UserError(f"--{option} {getattr(options, option)}: expects at least {minimum}")
    root = options.root or Path(os.environ.get("VLP_DATA") or "data", catalogue.folder)

    from vlp.curation.download.connection import RetryPolicy
    from vlp.curation.download.session import download_catalogue

    try:
        download_catalogue(
            catalogue,
            root,
            only=options.only,
            mirror=options.mirror,
            jobs=options.jobs,
            retry_policy=RetryPolicy(retries=options.retries, timeout=options.timeout),
            delete_archives=options.delete_archives,
        )
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        raise
    print(root)
