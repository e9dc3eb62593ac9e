"""The arguments of `vlp data` commands that read data as a run does. Imports nothing slow: `vlp --help` reads it."""

from __future__ import annotations

import argparse


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as of `vlp train`: data=coco data.root=FOLDER tokenizer=clip …",
    )
