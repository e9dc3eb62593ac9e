"""--max-restarts N: a run whose process was lost (killed, out of memory, a broken connection) is started again, in its folder.

It then goes on from its last checkpoint. A mistake in settings or data, a diverged training, and a run that was told to
stop are not started again: they would end in the same way, or were meant.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from types import FrameType

from vlp.system.exit_codes import FINAL


def supervise(arguments: list[str], environment: dict[str, str], restarts: int) -> int:
    """The exit code of the last start. Signals are passed on to the run."""
    told: list[int] = []
    for left in range(restarts, -1, -1):
        running = subprocess.Popen(arguments, env=environment)

        def pass_on(number: int, frame: FrameType | None, running: subprocess.Popen[bytes] = running) -> None:
            if number == signal.SIGTERM:
                told.append(number)
            running.send_signal(number)

        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGUSR1, pass_on)
        signal.signal(signal.SIGINT, lambda number, frame: None)  # the terminal sends it to the run, too
        code = running.wait()
        code = 128 - code if code < 0 else code
        if code in FINAL or told:
            break
        if left:
            print(
                f"the run ended with code {code}; it is started again, {left} more times at most",
                file=sys.stderr,
                flush=True,
            )
    return code
