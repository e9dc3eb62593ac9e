"""The data sets of a command line such as `data=coco data.root=/data/coco tokenizer=clip`, for the `vlp data` commands.

Imports nothing that takes long: `vlp --help` imports it.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp.system.errors import UserError

if TYPE_CHECKING:
    from vlp.data.datamodule import DataModule


def add_override_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for `vlp train`: data=coco data.root=FOLDER tokenizer=clip …",
    )


def add_data_set_option(parser: argparse.ArgumentParser, option: str, purpose: str) -> None:
    """An option for further data sets, each the overrides of one command line in one string."""
    help = f"{purpose}, as overrides in one string; may be repeated"
    parser.add_argument(option, action="append", default=[], metavar="'KEY=VALUE …'", help=help)


@lru_cache
def compose_config(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The config of a run with these overrides.  Raises ConfigError for those that `vlp train` would refuse too."""
    from vlp.launch.config.compose import Composer, conf_folder
    from vlp.launch.config.resolve import resolve_config

    return resolve_config(Composer(conf=conf_folder(), config_name="train").compose(overrides), Path("run"))


def files_of_data(overrides: Sequence[str]) -> list[Path]:
    """The folders of the data and the files that settings name, wherever they lie."""

    def texts(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from texts(child)

    def roots(node: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
        if isinstance(node, dict):
            if isinstance(node.get("root"), str):
                yield Path(node["root"]).expanduser(), node
            for child in node.values():
                yield from roots(child)

    found: list[Path] = []
    for root, settings in roots(compose_config(tuple(overrides))["data"]):
        found += [root, *(root / text for text in texts(settings) if "\0" not in text)]
    return [path for path in found if path.exists()]


def build_sources(overrides: Sequence[str]) -> tuple[dict[str, DataModule], Any]:
    """The sources by name, as a mixture has several, and the tokenizer; generated data are generated if they do not exist.

    Raises ConfigError for overrides that `vlp train` would refuse too.
    """
    from vlp.data.parts import build_data, build_tokenizer

    config = compose_config(tuple(overrides))
    tokenizer = build_tokenizer(config)
    data = build_data(config, tokenizer=tokenizer)
    data.prepare_data()
    return dict(data.sources), tokenizer


def build_only_source(overrides: Sequence[str], command: str) -> DataModule:
    """For a command that takes one data set.  Raises UserError for a mixture."""
    sources, _ = build_sources(overrides)
    if len(sources) > 1:
        raise UserError(f"{command} one data set at a time: {', '.join(sources)} are several")
    return next(iter(sources.values()))


def build_sources_of_lines(lines: Sequence[str]) -> dict[str, DataModule]:
    """lines: each the overrides of one data set; a name that occurs twice gets a number."""
    built: dict[str, DataModule] = {}
    for line in lines:
        for name, source in build_sources(shlex.split(line))[0].items():
            number = sum(1 for other in built if other.split("#")[0] == name) + 1
            built[name if number == 1 else f"{name}#{number}"] = source
    return built
