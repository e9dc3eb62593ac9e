"""The process of one job: started in a session of its own, limited in time, found again after its sweep was killed.

A job outlives its sweep: it owns its session and writes to `output.log`, so neither a closed terminal nor a SIGKILL of
the sweep takes hours of training with it. `process.json` in its folder says which process it is (id, start, machine),
and `vlp sweep resume` waits for one that still runs, so that there are never two processes on one folder.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from vlp.system.atomic import atomic_write_json

RECORD, LOG, STOP = "process.json", "output.log", ".stop"
ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
RANKS_LEFT = 10.0  # seconds that further ranks have to end after the first of them


class JobEnd(NamedTuple):
    """How a job's process ended; code None: nobody saw it, for it was not our child."""

    code: int | None
    timed_out: bool
    seconds: float


class JobProcess:
    """A running job. `poll` also keeps the time limit: SIGTERM, and SIGKILL `grace` seconds later."""

    def __init__(self, pid: int, began: float, minutes: float | None, grace: float) -> None:
        self.pid, self.began, self.minutes, self.grace = pid, began, minutes, grace
        self.child: subprocess.Popen[bytes] | None = None
        self.started = 0.0  # of one that is no child of ours: `start_of`
        self.timed_out: float | None = None
        self.leader_ended: float | None = None

    @classmethod
    def start(
        cls, folder: Path, arguments: Sequence[str], environment: dict[str, str], minutes: float | None, grace: float
    ) -> JobProcess:
        (folder / STOP).unlink(missing_ok=True)
        with open(folder / LOG, "ab") as log:
            child = subprocess.Popen(
                arguments, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        process = cls(child.pid, time.monotonic(), minutes, grace)
        process.child = child
        record = {
            "pid": child.pid,
            "started": process_start_time(child.pid),
            "host": socket.gethostname(),
            "time": time.time(),
        }
        with suppress(OSError):  # a full disk: the job itself will say so
            atomic_write_json(folder / RECORD, record)
        return process

    @classmethod
    def find(cls, folder: Path, minutes: float | None, grace: float) -> JobProcess | None:
        """The process that an earlier sweep started in this folder, if it still runs on this machine."""
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            if record["host"] != socket.gethostname() or record["started"] is None:
                return None
            if not is_same_process_running(record["pid"], record["started"]):
                return None
            process = cls(record["pid"], time.monotonic() - (time.time() - record["time"]), minutes, grace)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        process.started = record["started"]
        return process

    def poll(self) -> JobEnd | None:
        now = time.monotonic()
        running, code = self._poll_leader()
        if running:
            if self.timed_out is None and self.minutes and now - self.began > 60 * self.minutes:
                self.timed_out = now
                self.stop(signal.SIGTERM)
            elif self.timed_out is not None and now - self.timed_out > self.grace:
                self.stop(signal.SIGKILL)
            return None
        self.leader_ended = self.leader_ended or now
        if is_process_group_running(
            self.pid
        ):  # ranks of a crashed job would wait for it, and hold its devices, for half an hour
            if now - self.leader_ended < RANKS_LEFT:
                return None
            self.stop(signal.SIGKILL)
        return JobEnd(code, self.timed_out is not None and code != 0, round(self.leader_ended - self.began, 1))

    def _poll_leader(self) -> tuple[bool, int | None]:
        if self.child is not None:
            code = self.child.poll()
            return code is None, code
        return is_same_process_running(self.pid, self.started), None

    def stop(self, number: int) -> None:
        """SIGTERM goes to the first process alone, which tells its ranks: it would end loaders of data that the last
        checkpoint still needs. SIGINT reaches all, as Ctrl-C in a terminal does, and so does SIGKILL."""
        with suppress(ProcessLookupError, PermissionError):
            (os.kill if number == signal.SIGTERM else os.killpg)(self.pid, number)


class RemoteJob:
    """A job as a callable that another machine unpickles and runs: for Slurm and Ray.

    It is stopped through a file in the job's folder, which every machine of a cluster sees. The environment holds only what
    must be added there: pickles lie on disks, where secrets have no place.
    """

    def __init__(
        self, folder: Path, arguments: Sequence[str], environment: dict[str, str], minutes: float | None, grace: float
    ) -> None:
        self.folder, self.arguments, self.environment = folder, list(arguments), environment
        self.minutes, self.grace = minutes, grace
        self.cwd = os.getcwd()
        self.process: JobProcess | None = None

    def __call__(self) -> tuple[int | None, bool, float]:
        os.chdir(self.cwd)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SUBMITIT_")}
        environment |= self.environment
        if "SLURM_JOB_NAME" in environment:
            environment["SLURM_JOB_NAME"] = "interactive"  # Lightning then starts the ranks itself, within this task
        left = JobProcess.find(self.folder, self.minutes, self.grace)  # by a worker that was killed on this machine
        self.process = left or JobProcess.start(self.folder, self.arguments, environment, self.minutes, self.grace)
        try:
            return self.wait()
        except KeyboardInterrupt:  # Ray's and submitit's way to cancel
            self.process.stop(signal.SIGTERM)
            return self.wait(self.grace)

    def wait(self, seconds: float | None = None) -> tuple[int | None, bool, float]:
        """Until the process has ended; after `seconds` it is killed."""
        assert self.process is not None
        began, last_signal = time.monotonic(), 0
        while (ended := self.process.poll()) is None:
            with suppress(OSError, ValueError):
                number = int((self.folder / STOP).read_text())
                if number != last_signal:
                    last_signal = number
                    self.process.stop(number)
            if seconds is not None and time.monotonic() - began > seconds:
                self.process.stop(signal.SIGKILL)
            time.sleep(0.1)
        return ended.code, ended.timed_out, ended.seconds

    def checkpoint(self) -> Any:
        """submitit calls this when Slurm preempts the task or its time is over: the run writes its checkpoint and ends,
        and the same task, queued again, continues from there."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.stop(signal.SIGTERM)
            self.wait(self.grace)
        self.process = None
        return DelayedSubmission(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "process": None}


def process_start_time(pid: int) -> float | None:
    """When a process started, in seconds since the machine did, which no setting of the clock changes; None when it does
    not run (any more)."""
    try:
        process = psutil.Process(pid)
        return None if process.status() in ENDED else process.create_time() - psutil.boot_time()
    except psutil.Error:
        return None


def is_same_process_running(pid: int, started: float) -> bool:
    """Whether the process of this id is the one that started then: no id comes back within a second."""
    start = process_start_time(pid)
    return (
        start is not None and abs(start - started) < 1.5
    )  # the kernel's boot time is a whole second, sometimes the next


def is_process_group_running(group: int) -> bool:
    """Whether a process of the group is left; one that has ended and only waits to be collected does not count."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() not in ENDED:
                return True
    return False
