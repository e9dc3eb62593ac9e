"""How a run is started: `python -m vlp.training.run RUN/config.yaml`, from a checkout or an installed package alike."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from vlp.launch.compose import PACKAGE
from vlp.system.secrets import redact, secrets_in_overrides

MODULES = {"train": "vlp.training.run", "evaluate": "vlp.training.evaluate"}


def command_line(command: str, overrides: Sequence[str]) -> str:
    return shlex.join(["vlp", command, *shown(overrides)])


def shown(overrides: Sequence[str]) -> list[str]:
    """Overrides as text that may be stored: values of keys that look secret are hidden."""
    secrets = secrets_in_overrides(overrides)
    return [key + equals + redact(value, secrets) for key, equals, value in (line.partition("=") for line in overrides)]


def process(command: str, file: Path) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of the process that runs a frozen config."""
    environment = dict(os.environ)
    if not (PACKAGE / "conf").is_dir():  # a checkout: the package need not be installed
        paths = [str(PACKAGE.parent), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return [sys.executable, "-m", MODULES[command], str(file)], environment
