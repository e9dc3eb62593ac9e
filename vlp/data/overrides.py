"""The arguments of `vlp data` commands that read data as a run does. Imports nothing slow: `vlp --help` reads it."""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path
from typing import Any


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as of `vlp train`: data=coco data.root=FOLDER tokenizer=clip …",
    )


@lru_cache
def settled(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The config of a run of these overrides.  Raises ConfigError for those that `vlp train` would refuse too."""
    from vlp.launch.compose import Composer, conf_folder
    from vlp.launch.config.resolve import resolve_config

    return resolve_config(Composer(conf=conf_folder(), config_name="train").compose(overrides), Path("run"))
