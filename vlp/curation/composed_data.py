"""The data of a command line such as `data=coco data.root=/data/coco tokenizer=clip`, for the `vlp data` commands.

Imports nothing slow: `vlp --help` reads it.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp.system.errors import UserError

if TYPE_CHECKING:
    from vlp.data.datamodule import DataModule


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as of `vlp train`: data=coco data.root=FOLDER tokenizer=clip …",
    )


@lru_cache
def compose_config(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The config of a run of these overrides.  Raises ConfigError for those that `vlp train` would refuse too."""
    from vlp.launch.config.compose import Composer, conf_folder
    from vlp.launch.config.resolve import resolve_config

    return resolve_config(Composer(conf=conf_folder(), config_name="train").compose(overrides), Path("run"))


@dataclass
class ComposedData:
    """sources: by name, as a mixture has several; what is drawn when it is first needed is there."""

    sources: dict[str, DataModule]
    tokenizer: Any
    data: Any

    def only(self, verb: str) -> DataModule:
        """The one source, for what is done to one data set."""
        if len(self.sources) > 1:
            raise UserError(f"{verb} one data set at a time: {', '.join(self.sources)} are several")
        return next(iter(self.sources.values()))


def compose_data(overrides: Sequence[str]) -> ComposedData:
    """Raises ConfigError for overrides that `vlp train` would refuse too."""
    from vlp.data.parts import build_data, build_tokenizer

    config = compose_config(tuple(overrides))
    tokenizer = build_tokenizer(config)
    data = build_data(config, tokenizer=tokenizer)
    data.prepare_data()
    return ComposedData(dict(data.sources), tokenizer, data)


def compose_others(told: Sequence[str]) -> dict[str, DataModule]:
    """Further data sets, each a command line of its own in one string; a name that occurs twice gets a number."""
    found: dict[str, DataModule] = {}
    for line in told:
        for name, source in compose_data(shlex.split(line)).sources.items():
            number = sum(1 for other in found if other.split("#")[0] == name) + 1
            found[name if number == 1 else f"{name}#{number}"] = source
    return found
