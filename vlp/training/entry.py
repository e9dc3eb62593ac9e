"""The last frame of a run's process: a mistake in data or settings ends in one sentence, its traceback in the run folder."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlp.launch.secrets import hide_in_tracebacks, redact, values

PACKAGE = Path(__file__).resolve().parent.parent
EXPECTED = (ValueError, OSError, ArithmeticError)


def enter(name: str, function: Callable[[Path], Any]) -> None:
    """`function` of the config file on the command line.

    What vlp itself raises for a user to read is printed and the process exits with 2; anything else is a defect, of vlp or
    of a library, and keeps its traceback.
    """
    config = Path(sys.argv[1])
    secrets = values(config)
    hide_in_tracebacks(secrets)
    try:
        function(config)
    except EXPECTED as error:
        last = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
        if PACKAGE not in last.parents:
            raise
        file = config.parent / "error.txt"
        file.write_text(redact(traceback.format_exc(), secrets), encoding="utf-8")
        print(redact(f"{name}: {error} (traceback: {file})", secrets), file=sys.stderr)
        sys.exit(2)
