"""With which code a process of vlp ends, and what others conclude from it."""

from __future__ import annotations

import signal

FINISHED = 0
FAILED = 1  # a defect, or a lost process
MISTAKE = 2  # of the user's, in settings or data
DIVERGED = 4  # the loss was not finite
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE  # nobody reads the output any more
TERMINATED = 128 + signal.SIGTERM  # within training, both after a checkpoint was written

FINAL = {FINISHED, MISTAKE, DIVERGED, INTERRUPTED, TERMINATED}  # to start the run again would end in the same way
STOPPED = {INTERRUPTED, TERMINATED, -signal.SIGINT, -signal.SIGTERM}  # the last two as subprocess gives them
