"""-m: every combination of the swept values, each in its own process and run folder.

All jobs are composed and checked before the first starts. A job that fails does not stop the others. `sweep.json` is
rewritten after each change, so that the state of a sweep can be read while it runs and after it was cut off.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from vlp.launch.compose import Composer
from vlp.launch.errors import ConfigError
from vlp.launch.process import command_line, process, shown
from vlp.launch.run_folder import create, freeze, parent_folder, safe_name, settle, write_json

Job = dict[str, Any]


def expand(composer: Composer, lines: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The override lists of all jobs (the product, later keys fastest) and the keys that vary."""
    axes: dict[str, list[str]] = {}
    varying = []
    for override in composer.parse(lines):
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes[key] = [override.input_line or key]
            continue
        if not override.is_discrete_sweep():
            raise ConfigError(f"{override.input_line}: an interval has no end of values; write range(…) or choice(…)")
        axes.pop(key, None)
        axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        if not axes[key]:
            raise ConfigError(f"{override.input_line}: no value matches")
        varying.append(key)
    return [list(job) for job in itertools.product(*axes.values())], varying


def sweep(command: str, composer: Composer, lines: list[str]) -> int:
    """Run all jobs, `sweep.jobs` at a time; 0 when all succeeded, 1 when one failed, 130 when interrupted."""
    configs: list[Any] = []
    combinations, varying = expand(composer, lines)
    for index, overrides in enumerate(combinations):
        try:
            configs.append(composer.compose(overrides))
            settled = settle(configs[-1], Path("run"))
            if settled.get("resume") == "auto":
                raise ConfigError("resume=auto belongs to one run; name the checkpoint with resume=PATH")
        except ConfigError as error:
            what = f"job {index} of {len(combinations)} ({' '.join(overrides)})"
            raise ConfigError(f"no job was started, for {what} is wrong: {error}") from error
    names = {str(config.get("name")) for config in configs}
    folder = create(parent_folder(settled if len(names) == 1 else {**settled, "name": "sweep"}))
    jobs: list[Job] = []
    for index, (overrides, config) in enumerate(zip(combinations, configs, strict=True)):
        swept = shown([line for line in overrides if line.split("=")[0] in varying])
        run = folder / safe_name("_".join([str(index), *swept]))
        freeze(run, settle(config, run), command_line(command, overrides))
        job = {"index": index, "overrides": " ".join(swept), "status": "pending", "folder": str(run)}
        jobs.append({**job, "exit_code": None, "seconds": None})
    ledger = {"command": command_line(command, ["-m", *lines]), "program": command, "jobs": jobs}
    write_json(folder / "sweep.json", ledger)
    interrupted = Runner(command, folder, ledger, (settled.get("sweep") or {}).get("jobs") or 1).run()
    show(folder, jobs)
    return 130 if interrupted else int(any(job["status"] != "finished" for job in jobs))


class Runner:
    """Starts the jobs of a ledger, each in a session of its own so that Ctrl-C reaches it once, and through us."""

    def __init__(self, command: str, folder: Path, ledger: dict[str, Any], at_once: int) -> None:
        self.command, self.folder, self.ledger, self.at_once = command, folder, ledger, at_once
        self.jobs: list[Job] = ledger["jobs"]
        self.running: list[tuple[Job, subprocess.Popen[bytes], float]] = []
        self.signals = 0

    def run(self) -> bool:
        """True when a signal ended the sweep before its last job."""
        previous = {number: signal.signal(number, self.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            waiting = iter([job for job in self.jobs if job["status"] == "pending"])
            job = next(waiting, None)
            while self.running or (job is not None and not self.signals):
                while job is not None and not self.signals and len(self.running) < self.at_once:
                    self.start(job)
                    job = next(waiting, None)
                self.collect()
                time.sleep(0.05)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.signals > 0

    def on_signal(self, number: int, frame: Any) -> None:
        """First: ask the running jobs to stop and start no more. Second: end them."""
        self.signals += 1
        for _, running, _ in self.running:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, number if self.signals == 1 else signal.SIGKILL)

    def start(self, job: Job) -> None:
        arguments, environment = process(self.command, Path(job["folder"]) / "config.yaml")
        print(f"[{job['index'] + 1}/{len(self.jobs)}] {job['overrides']} → {job['folder']}", flush=True)
        # the terminal shows one job at a time; more than one write to their folders
        log = Path(job["folder"]) / "output.log" if self.at_once > 1 else None
        with open(log, "wb") if log else nullcontext() as output:
            running = subprocess.Popen(
                arguments,
                env=environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.running.append((job, running, time.monotonic()))
        if self.signals:  # it came while the job was being started
            os.killpg(running.pid, signal.SIGINT)
        self.update(job, status="running")

    def collect(self) -> None:
        for entry in list(self.running):
            job, running, started = entry
            code = running.poll()
            if code is None:
                continue
            self.running.remove(entry)
            status = "finished" if code == 0 and not self.signals else "stopped" if self.signals else "failed"
            self.update(job, status=status, exit_code=code, seconds=round(time.monotonic() - started, 1))
            if status == "failed":
                print(
                    f"job {job['index']} failed with exit code {code} ({job['folder']}); the others go on",
                    file=sys.stderr,
                    flush=True,
                )

    def update(self, job: Job, **changes: Any) -> None:
        job.update(changes)
        with suppress(OSError):  # a full disk must not end the jobs that still run
            write_json(self.folder / "sweep.json", self.ledger)


def show(folder: Path, jobs: list[Job]) -> None:
    """The table at the end: status, time and main figures of every job."""
    from rich.markup import escape
    from rich.table import Table

    from vlp.launch.compare import load, main_figures, print_table, short, summary

    figures = [load(Path(job["folder"]) / "config.yaml").figures or {} for job in jobs]
    metrics = main_figures(dict.fromkeys(name for found in figures for name in found))
    table = Table("job", "overrides", "status", "seconds", *map(escape, short(metrics)), title=escape(str(folder)))
    for job, found in zip(jobs, figures, strict=True):
        status = job["status"] + (f" ({job['exit_code']})" if job["exit_code"] else "")
        cells = [job["index"], job["overrides"], status, job["seconds"] if job["seconds"] is not None else ""]
        table.add_row(
            *(escape(str(cell)) for cell in cells),
            *(summary((found[m], None) if m in found else None) for m in metrics),
        )
    print_table(table)
