"""sweep.executor=ray: each job is a Ray task, which runs the job's process on the machine that Ray chooses.

The run folders must lie on a disk that all machines share; relative paths are those of the folder where the sweep began.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

from vlp.launch.process import training_process
from vlp.launch.sweep.job_process import STOP, JobEnd, JobProcess, RemoteJob
from vlp.launch.sweep.ledger import Job

PASSED_ON = ("VLP_", "WANDB_", "HF_", "AWS_", "OMP_")  # a machine of the cluster has its own environment otherwise


class RayExecutor:
    together = False

    def __init__(self, command: str, settings: dict[str, Any]) -> None:
        import ray

        self.command, self.settings = command, settings
        self.at_once: int = settings["jobs"]
        chosen = settings["ray"]
        if not ray.is_initialized():
            own: dict[str, Any] = {} if chosen["address"] else {"include_dashboard": False}
            ray.init(address=chosen["address"], logging_level=logging.ERROR, log_to_driver=False, **own)
        self.remote = ray.remote(num_cpus=chosen["cpus"], num_gpus=chosen["gpus"], max_retries=0)(run_task)

    def start(self, jobs: list[Job]) -> list[RayTask]:
        return [RayTask(Path(job["folder"]), self.remote.remote(self.task(job))) for job in jobs]

    def task(self, job: Job) -> RemoteJob:
        folder = Path(job["folder"])
        (folder / STOP).unlink(missing_ok=True)
        arguments, environment = training_process(self.command, folder / "config.yaml")
        added = {name: value for name, value in environment.items() if name.startswith(PASSED_ON)}
        added |= {name: environment[name] for name in ("PYTHONPATH", "PATH") if name in environment}
        return RemoteJob(folder, arguments, added, self.settings["time_limit_min"], self.settings["grace_period_s"])

    def find(self, job: Job) -> JobProcess | None:
        return JobProcess.find(Path(job["folder"]), self.settings["time_limit_min"], self.settings["grace_period_s"])


def run_task(task: RemoteJob) -> tuple[int | None, bool, float]:
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's guess for its own workers; the task brings the user's
    return task()


class RayTask:
    def __init__(self, folder: Path, reference: Any) -> None:
        self.folder, self.reference = folder, reference

    def poll(self) -> JobEnd | None:
        import ray

        done, _ = ray.wait([self.reference], timeout=0)
        if not done:
            return None
        try:
            return JobEnd(*ray.get(self.reference))
        except ray.exceptions.TaskCancelledError:
            return JobEnd(-signal.SIGTERM, False, 0.0)
        except ray.exceptions.RayError:  # the worker or its machine is gone
            return JobEnd(None, False, 0.0)

    def stop(self, number: int) -> None:
        import ray

        (self.folder / STOP).write_text(str(int(signal.SIGTERM if number == signal.SIGINT else number)))
        ray.cancel(
            self.reference
        )  # one that still waits for a machine never starts; a running one ends as the file says
