"""-m: every combination of the swept values, or those that Optuna suggests, each in its own process and run folder.

The jobs of a grid are all composed and checked before the first starts. A job that fails does not stop the others.
`sweep.json` (ledger.py) holds the state; `vlp sweep resume FOLDER` runs what is unfinished in it.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import OmegaConf

from vlp.launch.config.changes import dotted_items
from vlp.launch.config.compose import Composer
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.resolve import resolve_config
from vlp.launch.config.values import swept_values
from vlp.launch.process import command_line, redact_overrides
from vlp.launch.runs.folder import create_run_folder, freeze, parent_folder, safe_name
from vlp.launch.runs.provenance import parts_of_checkpoint
from vlp.launch.runs.wandb_environment import check_wandb, separate_job, take_tags
from vlp.launch.sweep.job_runner import GridSource, JobRunner, JobSource
from vlp.launch.sweep.ledger import Job, Ledger, job_figures
from vlp.launch.sweep.metric import check_direction, check_metric, unmeasured
from vlp.launch.sweep.settings import build_executor, check_settings
from vlp.system import exit_codes
from vlp.system.pipes import OutputWithoutReader


def expand_overrides(composer: Composer, lines: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The override lists of all jobs (the product, later keys fastest) and the keys that vary."""
    axes: dict[str, list[str]] = {}
    varying = []
    for override in composer.parse(lines):
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes[key] = [override.input_line or key]
            continue
        if not override.is_discrete_sweep():
            raise ConfigError(
                f"{override.input_line}: an interval has no end of values; write range(…) or choice(…), "
                "or search it with sweep=optuna"
            )
        axes.pop(key, None)
        axes[key] = [f"{key}={value}" for value in swept_values(override, composer.known)]
        if not axes[key]:
            raise ConfigError(f"{override.input_line}: no value matches")
        varying.append(key)
    return [list(job) for job in itertools.product(*axes.values())], varying


def first_values(overrides: Sequence[Override]) -> list[str]:
    """One job's override list: of each swept key its first value."""
    lines = []
    for override in overrides:
        key, value = override.get_key_element(), override.value()
        if not override.is_sweep_override():
            lines.append(override.input_line or key)
        elif isinstance(value, IntervalSweep):
            lines.append(f"{key}={value.start!r}")
        else:
            lines += [f"{key}={text}" for text in itertools.islice(override.sweep_string_iterator(), 1)]
    return lines


def sweep(command: str, composer: Composer, lines: list[str]) -> int:
    """Run all jobs, `sweep.jobs` at a time; 0 when all finished, 1 when one did not, 128 + the signal when interrupted."""
    overrides = composer.parse(lines)
    try:
        first = composer.compose(first_values(overrides))
        given = OmegaConf.to_container(first.sweep, resolve=True) if "sweep" in first else {}
    except ConfigError:
        if any(override.is_interval_sweep() for override in overrides):
            raise
        given = {}  # a grid says below which of its jobs is wrong
    settings = check_settings(given or {})  # type: ignore[arg-type]
    if "trials" in settings:
        return search(command, composer, lines, settings)
    configs: list[Any] = []
    containers: list[dict[str, Any]] = []
    combinations, varying = expand_overrides(composer, lines)
    for index, job_lines in enumerate(combinations):
        try:
            configs.append(composer.compose(job_lines))
            containers.append(resolved := resolve_job_config(configs[-1], Path("run")))
        except ConfigError as error:
            what = f"job {index} of {len(combinations)} ({' '.join(redact_overrides(job_lines))})"
            raise ConfigError(f"no job was started, for {what} is wrong: {error}") from error
    check_different(
        containers, [redact_overrides([line for line in job if line.split("=")[0] in varying]) for job in combinations]
    )
    check_metric(settings["metric"], containers)
    names = {str(config.get("name")) for config in configs}
    ledger = new_ledger(command, lines, resolved if len(names) == 1 else {**resolved, "name": "sweep"}, settings)
    for job_lines, config in zip(combinations, configs, strict=True):
        add_job(ledger, config, job_lines, varying)
    with ledger.lock():
        ledger.write()
        return run_jobs(ledger, GridSource(ledger.jobs))


def check_different(containers: Sequence[dict[str, Any]], overrides: Sequence[Sequence[str]]) -> None:
    """Raises ConfigError for two jobs of one config: they would be the same run twice."""
    first: dict[Any, int] = {}
    for index, container in enumerate(containers):
        settings = {k: str(v) if isinstance(v, (list, dict)) else v for k, v in dotted_items(container)}  # 1 is 1.0
        other = first.setdefault(frozenset(settings.items()), index)
        if other != index:
            raise ConfigError(
                f"no job was started, for jobs {other} and {index} are the same run ({' '.join(overrides[other])} and "
                f"{' '.join(overrides[index])}): leave out one of the values"
            )


def search(command: str, composer: Composer, lines: list[str], settings: dict[str, Any]) -> int:
    from vlp.launch.sweep.pruning import intermediate_figure
    from vlp.launch.sweep.search import distributions

    for line, stored in zip(lines, redact_overrides(lines), strict=True):
        if line != stored and "${" not in line:
            key = line.partition("=")[0]
            raise ConfigError(f"{key}: a search keeps its command; write the secret as '{key}=${{oc.env:VARIABLE}}'")
    overrides = composer.parse(lines)
    config = composer.compose(first_values(overrides))
    distributions(overrides, composer.known)
    resolved = resolve_job_config(config, Path("run"))
    swept = {override.get_key_element().partition(".")[0] for override in overrides if override.is_sweep_override()}
    metric = settings["metric"] or resolved.get("monitor")
    if not swept & {"data", "task", "tasks", "name", "monitor"}:  # else the first job says nothing about the others
        check_metric(metric, [resolved])
    check_direction(metric, settings["direction"], resolved)
    intermediate = intermediate_figure(metric, resolved)
    if settings["pruner"] and intermediate is None:
        raise ConfigError(
            f"sweep.pruner={settings['pruner']} compares validations: set sweep.metric or monitor to a val/… figure"
        )
    ledger = new_ledger(command, lines, resolved, settings)
    ledger.content["intermediate"] = intermediate
    places = {"conf": str(composer.conf.resolve()), "extra": [str(folder.resolve()) for folder in composer.extra]}
    ledger.content["search"] = {"lines": lines, "config_name": composer.config_name, **places}
    with ledger.lock():
        ledger.write()
        return run_jobs(ledger, search_source(ledger, composer))


def search_source(ledger: Ledger, composer: Composer) -> Any:
    from vlp.launch.sweep.search import SearchSource, distributions

    overrides = composer.parse(ledger.content["search"]["lines"])
    composer.compose(first_values(overrides))
    space = distributions(overrides, composer.known)
    fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
    return SearchSource(ledger, space, ledger.content["settings"], partial(suggested_job, ledger, composer, fixed))


def suggested_job(ledger: Ledger, composer: Composer, fixed: list[str], texts: dict[str, str], trial: int) -> Job:
    """The job of one suggestion. One whose values do not go together is a failed job, not the end of the search."""
    lines = [*fixed, *(f"{key}={text}" for key, text in texts.items())]
    try:
        job = add_job(ledger, composer.compose(lines), lines, list(texts), trial=trial)
    except ConfigError as error:
        print(f"{' '.join(lines)}: {error}")
        overrides = " ".join(f"{key}={text}" for key, text in texts.items())
        job = ledger.add(ledger.folder / "none", overrides, status="failed", exit_code=2, trial=trial)
    ledger.write()
    return job


def resolve_job_config(config: Any, folder: Path) -> dict[str, Any]:
    resolved = resolve_config(config, folder)
    if resolved.get("resume") == "auto":
        raise ConfigError("resume=auto belongs to one run; name the checkpoint with resume=PATH")
    check_wandb(resolved)
    separate_job(resolved, folder)
    take_tags(resolved)
    return resolved


def new_ledger(command: str, lines: Sequence[str], resolved: dict[str, Any], settings: dict[str, Any]) -> Ledger:
    folder = create_run_folder(parent_folder(resolved))
    content = {"command": command_line(command, ["-m", *lines]), "program": command, "cwd": os.getcwd()}
    metric = settings["metric"] or resolved.get("monitor")
    return Ledger(folder, {**content, "metric": metric, "settings": settings, "jobs": []})


def add_job(ledger: Ledger, config: Any, lines: Sequence[str], varying: Sequence[str], **more: Any) -> Job:
    swept = redact_overrides([line for line in lines if line.split("=")[0] in varying])
    folder = ledger.folder / safe_name("_".join([str(len(ledger.jobs)), *swept]))
    resolved = resolve_job_config(config, folder)
    for logger in (resolved.get("loggers") or {}).values():  # W&B shows the runs of a sweep as one group
        if isinstance(logger, dict) and "group" in logger and logger["group"] is None:
            logger["group"] = ledger.folder.name
    freeze(folder, resolved, command_line(ledger.content["program"], lines))
    return ledger.add(folder, " ".join(swept), **more)


def run_jobs(ledger: Ledger, source: JobSource, unfinished: Sequence[Job] = ()) -> int:
    sys.stdout = OutputWithoutReader(sys.stdout)  # type: ignore[assignment]  # `train.py -m … | head` goes on
    settings = ledger.content["settings"]
    place = build_executor(ledger.content["program"], settings, ledger.folder)
    runner = JobRunner(ledger, source, place, settings["devices"])
    for job in unfinished:
        if (running := place.find(job)) is not None:
            runner.adopt_running_job(job, running)
        else:
            job.update(status="pending")
            source.requeue(job)
    interrupted = runner.run()
    ledger.show()
    if ledger.unfinished():
        print(f"not all is finished: vlp sweep resume {ledger.folder}")
    return interrupted or outcome(ledger, source)


def outcome(ledger: Ledger, source: JobSource) -> int:
    """The exit code of a sweep that was not interrupted; says which job is the best, or why none is."""
    best: Callable[[], str | None] | None = getattr(source, "best", None)
    if best is not None:
        line, why = best(), getattr(source, "unmeasured", None)
        print(
            line or f"there is no best trial: {why or 'none was finished with a number'}",
            file=sys.stdout if line else sys.stderr,
        )
        if line is None:
            return exit_codes.MISTAKE if why else exit_codes.FAILED
    finished, metric = [job for job in ledger.jobs if job["status"] == "finished"], ledger.content["settings"]["metric"]
    if metric and finished and not any(job["metric"] for job in finished):
        print(f"sweep: {unmeasured(metric, job_figures(finished[0]))}", file=sys.stderr)
        return exit_codes.MISTAKE
    return exit_codes.FAILED if ledger.unfinished() else exit_codes.FINISHED


def resume_sweep(folder: Path) -> int:
    """Run again, in their folders, the jobs of a sweep that did not finish; those that still run are waited for."""
    ledger = Ledger.read(folder.resolve())
    cwd = Path(ledger.content.get("cwd") or ".")
    if not cwd.is_dir():
        raise ConfigError(f"{folder}: its paths are meant from {cwd}, which is gone; make that folder again")
    with ledger.lock():
        os.chdir(cwd)
        ledger = Ledger.read(folder if folder.is_absolute() else ledger.folder)  # as the lock's last owner left it
        ledger.content["settings"] = check_settings(ledger.content.get("settings") or {})
        unfinished = []
        pruned = [job for job in ledger.jobs if job["status"] == "pruned"]  # one may have been finished by itself since
        for job in [*ledger.unfinished(), *(job for job in pruned if (Path(job["folder"]) / "results.json").is_file())]:
            check_job(job, ledger.folder)
            if (Path(job["folder"]) / "results.json").is_file() and no_running_process(job):
                job.update(status="finished", exit_code=0, metric=ledger.metric(job))
            elif (Path(job["folder"]) / "config.yaml").is_file():
                unfinished.append(job)
            else:
                print(
                    f"job {job['index']} ({job['overrides']}) has no config in {job['folder']}: it stays {job['status']}"
                )
        ledger.write()
        source: Any = GridSource([])
        if (stored := ledger.content.get("search")) is not None:
            extra = [Path(path) for path in stored["extra"]]
            composer = Composer(
                conf=Path(stored["conf"]),
                extra=extra,
                config_name=stored["config_name"],
                of_checkpoint=parts_of_checkpoint,
            )
            source = search_source(ledger, composer)
            for job in ledger.jobs:
                if job["status"] == "finished":  # perhaps since the sweep was killed: the study has not heard
                    source.record_end(job)
        return run_jobs(ledger, source, unfinished)


def no_running_process(job: Job) -> bool:
    from vlp.launch.sweep.job_process import JobProcess

    return JobProcess.find(Path(job["folder"]), None, 0) is None


def check_job(job: Job, folder: Path) -> None:
    """Its frozen config names its folder, and its secrets by environment variables: both must still be there."""
    own = Path(job["folder"])
    if own.name != "none" and own.resolve().parent != folder.resolve():
        raise ConfigError(
            f"{folder}: the sweep was moved from {own.resolve().parent}, which its configs name; move it back"
        )
    file = own / "config.yaml"
    for name in re.findall(r"\$\{oc\.env:(VLP_SECRET_\w+)\}", file.read_text("utf-8") if file.is_file() else ""):
        if name not in os.environ:
            raise ConfigError(f"{file}: its secret is not stored on disk; set it again in the environment as {name}")
