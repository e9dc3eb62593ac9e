"""How a run is started: `python -m vlp.training.run RUN/config.yaml`, from a checkout or an installed package alike."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from vlp.launch.config.compose import PACKAGE
from vlp.system.exit_codes import FINAL
from vlp.system.secrets import redact, secrets_in_overrides

MODULES = {"train": "vlp.training.run", "evaluate": "vlp.training.evaluate"}


def command_line(command: str, overrides: Sequence[str]) -> str:
    return shlex.join(["vlp", command, *redact_overrides(overrides)])


def redact_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides as text that may be stored: values of keys that look secret are hidden."""
    secrets = secrets_in_overrides(overrides)
    return [key + equals + redact(value, secrets) for key, equals, value in (line.partition("=") for line in overrides)]


def training_process(command: str, file: Path) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of the process that runs a frozen config."""
    environment = dict(os.environ)
    if not (PACKAGE / "conf").is_dir():  # a checkout: the package need not be installed
        paths = [str(PACKAGE.parent), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return [sys.executable, "-m", MODULES[command], str(file)], environment


def run_with_restarts(arguments: list[str], environment: dict[str, str], restarts: int) -> int:
    """--max-restarts N: a run whose process was lost (killed, out of memory, a broken connection) is started again, in its
    folder, and continues from its last checkpoint; exit codes in FINAL are not, as it would end in the same way, or was
    meant to end. Returns the exit code of the last start. Signals are passed on to the run."""
    stop_signals: list[int] = []
    for left in range(restarts, -1, -1):
        running = subprocess.Popen(arguments, env=environment)

        def pass_on(number: int, frame: FrameType | None, running: subprocess.Popen[bytes] = running) -> None:
            if number == signal.SIGTERM:
                stop_signals.append(number)
            running.send_signal(number)

        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGUSR1, pass_on)
        signal.signal(signal.SIGINT, lambda number, frame: None)  # the terminal sends it to the run, too
        code = running.wait()
        code = 128 - code if code < 0 else code
        if code in FINAL or stop_signals:
            break
        if left:
            print(
                f"the run ended with code {code}; it is started again, {left} more times at most",
                file=sys.stderr,
                flush=True,
            )
    return code
