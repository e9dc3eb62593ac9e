"""sweep.executor=local: the jobs are processes of this machine, each pinned to its devices where `sweep.devices` names some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlp.launch.process import training_process
from vlp.launch.sweep.job_process import JobProcess
from vlp.launch.sweep.ledger import Job


class LocalExecutor:
    together = False

    def __init__(self, command: str, settings: dict[str, Any]) -> None:
        self.command, self.minutes, self.grace = command, settings["time_limit_min"], settings["grace_period_s"]
        self.at_once: int = settings["jobs"]

    def start(self, jobs: list[Job]) -> list[JobProcess]:
        return [self.start_one(job) for job in jobs]

    def start_one(self, job: Job) -> JobProcess:
        folder = Path(job["folder"])
        arguments, environment = training_process(self.command, folder / "config.yaml")
        if job["devices"] is not None:
            environment["CUDA_VISIBLE_DEVICES"] = job["devices"]
        return JobProcess.start(folder, arguments, environment, self.minutes, self.grace)

    def find(self, job: Job) -> JobProcess | None:
        return JobProcess.find(Path(job["folder"]), self.minutes, self.grace)
