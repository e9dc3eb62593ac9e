"""sweep.executor=slurm: the jobs are one Slurm array, submitted by submitit.

A task that Slurm preempts, or whose `sweep.slurm.time_limit_min` is over, gets a signal `sweep.grace_period_s` seconds before:
its run writes a checkpoint, and the task is queued again. The array stays when the sweep is killed; `vlp sweep resume` finds it
by its ids.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

from vlp.launch.config.errors import ConfigError
from vlp.launch.process import training_process
from vlp.launch.sweep.job_process import STOP, JobEnd, JobProcess, RemoteJob
from vlp.launch.sweep.ledger import Job


class SlurmExecutor:
    together = True  # one array

    def __init__(self, command: str, settings: dict[str, Any], folder: Path) -> None:
        import submitit

        self.command, self.settings, self.folder = command, settings, (folder / "submitit").resolve()
        slurm = settings["slurm"]
        self.cluster = slurm["cluster"]
        limits_jobs_itself = (
            self.cluster == "slurm" and "trials" not in settings
        )  # Slurm itself then keeps to so many at a time
        self.at_once: int = 2**31 if limits_jobs_itself else settings["jobs"]
        self.executor = submitit.AutoExecutor(
            self.folder, cluster=self.cluster, slurm_max_num_timeout=slurm["requeues"]
        )
        self.executor.update_parameters(
            name="vlp",
            timeout_min=slurm["time_limit_min"],
            gpus_per_node=slurm["gpus"],
            cpus_per_task=slurm["cpus"],
            mem_gb=slurm["mem_gb"],
            tasks_per_node=1,
            slurm_partition=slurm["partition"],
            slurm_array_parallelism=settings["jobs"],
            slurm_signal_delay_s=int(settings["grace_period_s"]) + 30,
            slurm_additional_parameters={"requeue": True, **(slurm["more"] or {})},
        )

    def start(self, jobs: list[Job]) -> list[SlurmTask]:
        with self.executor.batch():
            submitted = [self.executor.submit(self.task(job)) for job in jobs]
        for job, task in zip(jobs, submitted, strict=True):
            job["ticket"] = task.job_id
        return [SlurmTask(Path(job["folder"]), task) for job, task in zip(jobs, submitted, strict=True)]

    def task(self, job: Job) -> RemoteJob:
        folder = Path(job["folder"])
        (folder / STOP).unlink(missing_ok=True)
        arguments, environment = training_process(self.command, folder / "config.yaml")
        added = {name: environment[name] for name in ("PYTHONPATH",) if name in environment}
        return RemoteJob(folder, arguments, added, self.settings["time_limit_min"], self.settings["grace_period_s"])

    def find(self, job: Job) -> SlurmTask | JobProcess | None:
        """The task that an earlier sweep submitted, be it waiting, running or finished."""
        import submitit

        # what has ended has a ticket too, and its old result would be read again
        ticket = job.get("ticket") if job["status"] == "running" else None
        if self.cluster == "slurm" and ticket:
            if not re.fullmatch(r"\d+(_\d+)?", ticket):  # it goes to Slurm's programs
                raise ConfigError(f"{self.folder.parent / 'sweep.json'}: ticket {ticket} is no id of a Slurm job")
            return SlurmTask(Path(job["folder"]), submitit.SlurmJob(self.folder, ticket))
        return JobProcess.find(Path(job["folder"]), self.settings["time_limit_min"], self.settings["grace_period_s"])


class SlurmTask:
    def __init__(self, folder: Path, task: Any) -> None:
        self.folder, self.task, self.cancelled = folder, task, False

    def poll(self) -> JobEnd | None:
        if self.cancelled:
            return JobEnd(-signal.SIGTERM, False, 0.0)
        if not self.task.done():
            return None
        try:
            return JobEnd(*self.task.result())
        except Exception:  # submitit's errors hold the task's own traceback; its files lie in SWEEP/submitit
            return JobEnd(None, False, 0.0)

    def stop(self, number: int) -> None:
        (self.folder / STOP).write_text(str(int(signal.SIGTERM if number == signal.SIGINT else number)))
        if self.task.state in ("PENDING", "UNKNOWN") or number == signal.SIGKILL:
            self.task.cancel(check=False)
            self.cancelled = True
