"""Runs the jobs of a ledger, so many at a time, on whichever place: this machine, Slurm or Ray.

A place starts jobs and finds those that an earlier sweep left running; what it returns is polled and stopped.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vlp.launch.sweep.job_process import LOG, JobEnd, JobProcess
from vlp.launch.sweep.ledger import Job, Ledger
from vlp.system.exit_codes import STOPPED


@runtime_checkable
class RunningJob(Protocol):
    def poll(self) -> JobEnd | None: ...
    def stop(self, number: int) -> None: ...


@runtime_checkable
class Executor(Protocol):
    at_once: int
    together: bool  # many jobs are started by one request

    def start(self, jobs: list[Job]) -> Any: ...  # one Running for each job
    def find(self, job: Job) -> Any: ...  # Running | None


@runtime_checkable
class JobSource(Protocol):
    """Where jobs come from: a grid knows them all, a search asks for the next when there is room for one."""

    def next_job(self) -> Job | None: ...
    def requeue(self, job: Job) -> None: ...
    def record_end(self, job: Job) -> None: ...
    def should_prune(self, job: Job) -> bool: ...


class GridSource:
    def __init__(self, jobs: list[Job]) -> None:
        self.waiting = list(jobs)

    def next_job(self) -> Job | None:
        return self.waiting.pop(0) if self.waiting else None

    def requeue(self, job: Job) -> None:
        self.waiting.append(job)

    def record_end(self, job: Job) -> None:
        """Nothing to learn from one job for the others."""

    def should_prune(self, job: Job) -> bool:
        return False


class JobRunner:
    def __init__(self, ledger: Ledger, source: JobSource, place: Executor, devices: list[str] | None) -> None:
        self.ledger, self.source, self.place, self.devices = ledger, source, place, devices
        self.running: list[tuple[Job, RunningJob]] = []
        self.signals: list[int] = []
        self.pruned: dict[int, float] = {}  # jobs that were stopped as hopeless, and when
        self.echoed: dict[int, int] = {}  # bytes of each job's output that the terminal has seen

    def run(self) -> int:
        """0, or 128 + the signal that ended the sweep before its last job."""
        previous = {number: signal.signal(number, self.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.start_waiting_jobs()
            while self.running:
                self.collect_ended_jobs()
                self.start_waiting_jobs()
                time.sleep(0.05)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return 128 + self.signals[0] if self.signals else 0

    def adopt_running_job(self, job: Job, running: RunningJob) -> None:
        print(f"[{job['index'] + 1}] {job['overrides']} still runs → {job['folder']}", flush=True)
        self.running.append((job, running))
        self.ledger.update(job, status="running")

    def on_signal(self, number: int, frame: Any) -> None:
        """First: ask the running jobs to stop and start no more. Second: end them."""
        self.signals.append(number)
        for _, running in list(self.running):
            with suppress(OSError):
                running.stop(number if len(self.signals) == 1 else signal.SIGKILL)

    def start_waiting_jobs(self) -> None:
        """Start as many jobs as there is room for, at once: on Slurm they become one array."""
        jobs: list[Job] = []
        while not self.signals and len(self.running) + len(jobs) < self.place.at_once:
            if (job := self.source.next_job()) is None:
                break
            used = {other["devices"] for other in [*jobs, *(job for job, _ in self.running)]}
            job["devices"] = next(device for device in self.devices if device not in used) if self.devices else None
            jobs.append(job)
            print(f"[{job['index'] + 1}/{len(self.ledger.jobs)}] {job['overrides']} → {job['folder']}", flush=True)
        if not jobs:
            return
        for part in [jobs] if self.place.together else [[job] for job in jobs]:
            self.start(part)

    def start(self, jobs: list[Job]) -> None:
        try:
            started = self.place.start(jobs)
        except (OSError, RuntimeError) as error:
            for job in jobs:
                print(f"job {job['index']} cannot be started: {error}", file=sys.stderr, flush=True)
                self.ledger.update(job, status="failed")
                self.source.record_end(job)
            return
        for job, running in zip(jobs, started, strict=True):
            self.running.append((job, running))
            if self.signals:  # it came while they were being started
                running.stop(self.signals[0])
            job.update(status="running", exit_code=None)
        self.ledger.write()

    def collect_ended_jobs(self) -> None:
        for entry in list(self.running):
            job, running = entry
            ended = running.poll()
            if self.place.at_once == 1:
                self.echo_output(job)
            if ended is None:
                self.prune(job, running)
                continue
            self.running.remove(entry)
            code = ended.code
            if code is None and (Path(job["folder"]) / "results.json").is_file():
                code = 0
            elif code is None and not self.signals and not ended.timed_out and isinstance(running, JobProcess):
                self.source.requeue(job)  # left by a killed sweep, and nobody knows how it ended
                continue
            self.record_result(job, JobEnd(code, ended.timed_out, ended.seconds))

    def prune(self, job: Job, running: RunningJob) -> None:
        """Stop a job that falls behind the others; it writes its checkpoint, and is killed when it takes too long."""
        stopped_at, index = self.pruned.get(job["index"]), job["index"]
        if stopped_at is None and not self.signals and self.source.should_prune(job):
            print(f"[{index + 1}] {job['overrides']} falls behind the others and is stopped", flush=True)
            self.pruned[index] = time.monotonic()
            running.stop(signal.SIGTERM)
        elif (
            stopped_at is not None and time.monotonic() - stopped_at > self.ledger.content["settings"]["grace_period_s"]
        ):
            running.stop(signal.SIGKILL)

    def record_result(self, job: Job, ended: JobEnd) -> None:
        stopped = bool(self.signals) or ended.code in STOPPED
        status = (
            "finished" if ended.code == 0 else "timed out" if ended.timed_out else "stopped" if stopped else "failed"
        )
        if job["index"] in self.pruned and ended.code in (*STOPPED, -signal.SIGKILL, None):
            status = "pruned"
        metric = self.ledger.metric(job) if status == "finished" else None
        seconds = round((job["seconds"] or 0) + ended.seconds, 1)
        self.ledger.update(job, status=status, exit_code=ended.code, seconds=seconds, metric=metric)
        if status in ("failed", "timed out"):
            what = "timed out" if ended.timed_out else f"failed with exit code {ended.code}"
            print(
                f"job {job['index']} {what} ({job['folder']}/{LOG}); the others continue", file=sys.stderr, flush=True
            )
        if status != "stopped":
            self.source.record_end(job)

    def echo_output(self, job: Job) -> None:
        """The terminal shows one job at a time; more than one write to their folders alone."""
        with suppress(OSError), open(Path(job["folder"]) / LOG, "rb") as log:
            log.seek(self.echoed.get(job["index"], 0))
            text = log.read()
            self.echoed[job["index"]] = self.echoed.get(job["index"], 0) + len(text)
            sys.stdout.write(text.decode("utf-8", "replace"))
            sys.stdout.flush()
