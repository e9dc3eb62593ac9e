"""The commands of `vlp data`: one module each, with `add_arguments(parser)` and `run(options)`.

Every `vlp --help` imports these modules, so what takes long to import they import in `run`.
"""

from __future__ import annotations

import argparse
import shlex

from vlp.curation import index_command as index
from vlp.curation import pack_command as pack
from vlp.curation.check import command as check
from vlp.curation.clean import command as clean
from vlp.curation.composed_data import compose_config
from vlp.curation.download import command as download

COMMANDS = {
    "check": ("list all faults of data, with counts and examples", check),
    "clean": ("list samples without near duplicates, bad captions and photos of evaluation data", clean),
    "download": ("download the public files of a data set, in the layout that its reader expects", download),
    "index": ("write the manifest of tar shards of another origin", index),
    "pack": ("write data as tar shards", pack),
}


def add_commands(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    """Adds them below `vlp data`; returns their names."""
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True, parser_class=type(parser))
    for name, (line, module) in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=line, description=line))
    return tuple(COMMANDS)


def run(options: argparse.Namespace) -> int | None:
    """An exit code, where a command has one."""
    for overrides in (getattr(options, "overrides", []), *map(shlex.split, getattr(options, "against", []))):
        compose_config(tuple(overrides))  # a mistake is reported before anything that takes long is imported
    return COMMANDS[options.data_command][1].run(options)
