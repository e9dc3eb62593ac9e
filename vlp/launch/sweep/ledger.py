"""`sweep.json`: every job of a sweep with its overrides, status, exit code, seconds, metric, folder and devices.

It is rewritten as a whole after each change, so it can be read while the sweep runs, and after it was cut off it holds
all that `vlp sweep resume` needs.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from vlp.launch.config.errors import ConfigError
from vlp.launch.runs.compare import load_run, main_figures, short_names, summarize_figure
from vlp.system import tables
from vlp.system.atomic import atomic_write_json
from vlp.system.locks import exclusive_lock
from vlp.upgrade import upgrade

Job = dict[str, Any]


class Ledger:
    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.folder, self.content = folder, content
        self.jobs: list[Job] = content["jobs"]

    @classmethod
    def read(cls, folder: Path) -> Ledger:
        file = folder / "sweep.json"
        if not file.is_file():
            raise ConfigError(
                f"{folder}: not a sweep's folder, for it has no sweep.json; name the folder that -m printed"
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            settings = upgrade({"sweep": content.get("settings", {})})["sweep"]
            return cls(folder, {**content, "settings": settings, "jobs": list(content["jobs"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file}: not readable as the ledger of a sweep: {error}") from error

    def lock(self) -> AbstractContextManager[None]:
        """No two processes run one sweep."""
        taken = ConfigError(f"{self.folder}: this sweep is running; wait for it, or stop it with Ctrl-C first")
        return exclusive_lock(self.folder / ".sweep.lock", lambda: taken)

    def write(self) -> None:
        with suppress(OSError):  # a full disk must not end the jobs that still run
            atomic_write_json(self.folder / "sweep.json", self.content)

    def add(self, folder: Path, overrides: str, **more: Any) -> Job:
        job: Job = {"index": len(self.jobs), "overrides": overrides, "status": "pending", "exit_code": None}
        job |= {"seconds": None, "metric": None, "folder": str(folder), "devices": None, **more}
        self.jobs.append(job)
        return job

    def update(self, job: Job, **changes: Any) -> None:
        job.update(changes)
        self.write()

    def metric(self, job: Job) -> dict[str, Any] | None:
        """The figure that the sweep is about: sweep.metric, else the run's monitor, else its first main figure."""
        run = load_run(Path(job["folder"]) / "config.yaml")
        figures = run.figures or {}
        metric_name = self.content.get("metric") or next(iter(main_figures(figures)), None)
        return {"name": metric_name, "value": figures[metric_name]} if metric_name in figures else None

    def unfinished(self) -> list[Job]:
        return [job for job in self.jobs if job["status"] not in ("finished", "pruned")]

    def show(self) -> None:
        """The table at the end: status, time and main figures of every job."""
        figures = [job_figures(job) for job in self.jobs]
        metrics = main_figures(dict.fromkeys(name for found in figures for name in found))
        chosen = self.content.get("metric")
        if chosen and chosen not in metrics and any(chosen in found for found in figures):
            metrics = [*metrics[:3], chosen]
        rows = []
        for job, found in zip(self.jobs, figures, strict=True):
            status = job["status"] + (f" ({job['exit_code']})" if job["exit_code"] else "")
            cells = [job["index"], job["overrides"], status, job["seconds"] if job["seconds"] is not None else ""]
            metric_cells = [summarize_figure((found[m], None) if m in found else None) for m in metrics]
            rows.append([*map(str, cells), *metric_cells])
        columns = ["job", "overrides", "status", "seconds", *short_names(metrics)]
        tables.print_table(tables.build_table(columns, rows, title=str(self.folder)))


def job_figures(job: Job) -> dict[str, float]:
    """An unreadable folder is said, and leaves the other rows of the table alone."""
    file = Path(job["folder"]) / "config.yaml"
    try:
        return load_run(file).figures or {} if file.is_file() else {}
    except (OSError, ConfigError) as error:
        print(f"job {job['index']}: {error}", file=sys.stderr)
        return {}
