"""The data of a command line such as `data=coco data.root=/data/coco tokenizer=clip`, for the `vlp data` commands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlp.build import build
from vlp.data.base import DataModule
from vlp.data.overrides import settled
from vlp.system.errors import UserError


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
    config = settled(tuple(overrides))
    transform = {split: build(node) for split, node in config["transform"].items()}
    tokenizer = build(config["tokenizer"])
    data = build(config["data"], tokenizer=tokenizer, transform=transform, seed=config["seed"])
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
