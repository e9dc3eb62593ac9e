"""sweep=optuna: Optuna suggests the next values from those tried so far (ask, run, tell).

The study is a journal file in the sweep's folder. Each suggestion draws from its own seed, of sweep.seed and the trial's
number, so a resumed search suggests what an uninterrupted one would have, as long as one job runs at a time.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from vlp.launch.config.errors import ConfigError
from vlp.launch.config.schema import ConfigSchema
from vlp.launch.config.values import swept_values
from vlp.launch.sweep.ledger import Job, Ledger, job_figures
from vlp.launch.sweep.metric import unmeasured
from vlp.launch.sweep.pruning import ValidationFigures, build_pruner, check_pruner
from vlp.system.compat.optuna import reopen_trial

SAMPLERS = ("tpe", "random", "cmaes")
DIRECTIONS = ("maximize", "minimize")


def distributions(overrides: Sequence[Override], known: ConfigSchema | None = None) -> dict[str, Any]:
    """Of each swept key. interval: numbers between; int(interval), range: whole numbers or steps; a,b and choice: names."""
    found = {o.get_key_element(): distribution(o, known) for o in overrides if o.is_sweep_override()}
    if not found:
        raise ConfigError(
            "sweep=optuna: nothing to search; give a key several values, such as optimizer.lr=interval(1e-5,1e-2)"
        )
    return found


def distribution(override: Override, known: ConfigSchema | None = None) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    line, value = override.input_line, override.value()
    tags = set(getattr(value, "tags", ()))
    log = "log" in tags
    if tags - {"log"}:
        raise ConfigError(f"{line}: unknown tag {', '.join(map(str, tags - {'log'}))}; there is log")
    try:
        if isinstance(value, IntervalSweep):
            assert value.start is not None
            assert value.end is not None
            if isinstance(value.start, int) and isinstance(value.end, int):
                return IntDistribution(value.start, value.end, log=log)
            return FloatDistribution(value.start, value.end, log=log)
        if isinstance(value, RangeSweep) and not getattr(value, "shuffle", False):
            numbers = list(value.range())
            if all(isinstance(number, int) for number in numbers):
                return IntDistribution(numbers[0], numbers[-1], step=int(value.step), log=log)
            return FloatDistribution(numbers[0], numbers[-1], step=float(value.step))
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{line}: {error or 'it holds no value'}") from error
    if getattr(value, "shuffle", False) or log:
        raise ConfigError(f"{line}: a search has no order to shuffle, and log is for numbers: tag(log, interval(…))")
    choices = swept_values(override, known)
    if not choices:
        raise ConfigError(f"{line}: no value matches")
    return CategoricalDistribution(choices)


def check_search(settings: dict[str, Any]) -> None:
    for key, known in (("sampler", SAMPLERS), ("direction", DIRECTIONS)):
        if settings[key] not in known:
            raise ConfigError(f"sweep.{key}={settings[key]}: there are {', '.join(known)}")
    if type(settings["trials"]) is not int or settings["trials"] < 1:
        raise ConfigError(f"sweep.trials={settings['trials']}: expects a whole number above 0")
    check_pruner(settings)
    if settings["sampler"] == "cmaes":
        try:
            import cmaes  # noqa: F401
        except ModuleNotFoundError as error:
            raise ConfigError("sweep.sampler=cmaes needs another package: pip install cmaes") from error


class SearchSource:
    """The source of jobs. make: freezes one job from the texts of its swept keys; it may raise ConfigError."""

    def __init__(
        self,
        ledger: Ledger,
        space: dict[str, Any],
        settings: dict[str, Any],
        make: Callable[[dict[str, str], int], Job],
    ) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        journal = str((ledger.folder / "optuna.log").resolve())
        (Path(journal + ".lock")).unlink(missing_ok=True)  # left by a killed sweep; ours is the only process (held)
        storage = JournalStorage(JournalFileBackend(journal, lock_obj=JournalFileOpenLock(journal)))
        self.optuna, self.ledger, self.space, self.settings, self.make = optuna, ledger, space, settings, make
        self.study = optuna.create_study(
            storage=storage,
            study_name="sweep",
            direction=settings["direction"],
            pruner=build_pruner(settings),
            load_if_exists=True,
        )
        name = ledger.content.get("intermediate") if settings["pruner"] else None
        self.validations = None if name is None else ValidationFigures(name)
        self.unmeasured: str | None = None  # why no trial had the figure, once the first has shown it
        self.reported: dict[int, int] = {}  # validations of each trial that the study knows
        self.waiting: list[Job] = []
        self.left = self.unrecorded_trials()

    def unrecorded_trials(self) -> list[Any]:
        """Trials that were asked for just before a kill, with no job yet."""
        known = {job["trial"] for job in self.ledger.jobs}
        running = self.study.get_trials(deepcopy=False, states=[self.optuna.trial.TrialState.RUNNING])
        return [trial for trial in running if trial.number not in known]

    def sampler(self, number: int) -> Any:
        seed = self.settings["seed"]
        if seed is not None:
            seed = int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "little")
        samplers = self.optuna.samplers
        if self.settings["sampler"] == "random":
            return samplers.RandomSampler(seed=seed)
        if self.settings["sampler"] == "cmaes":
            return samplers.CmaEsSampler(seed=seed)
        # jobs that run beside each other must not all try the same place
        return samplers.TPESampler(seed=seed, constant_liar=self.settings["jobs"] > 1)

    def next_job(self) -> Job | None:
        if self.unmeasured is not None:
            return None
        if self.waiting:
            return self.waiting.pop(0)
        while self.left or len(self.ledger.jobs) < self.settings["trials"]:
            if self.left:
                trial = self.left.pop(0)
            else:
                self.study.sampler = self.sampler(len(self.study.get_trials(deepcopy=False)))
                trial = self.study.ask(fixed_distributions=self.space)
            texts = {key: value if isinstance(value, str) else repr(value) for key, value in trial.params.items()}
            job = self.make(texts, trial.number)
            if job["status"] == "pending":
                return job
            self.record_end(job)  # a value that does not fit the others: a failed trial, to be learned from
        return None

    def requeue(self, job: Job) -> None:
        self.waiting.append(job)

    def should_prune(self, job: Job) -> bool:
        """Reports the validations of a running job that the study does not know yet."""
        values = [] if self.validations is None else self.validations.of_run(Path(job["folder"]))
        if len(values) <= self.reported.get(job["trial"], 0):
            return False
        trial = reopen_trial(self.study, job["trial"])
        self.reported[job["trial"]] = len(values)
        known = self.study.get_trials(deepcopy=False)[job["trial"]].intermediate_values
        for step, value in enumerate(values, start=1):
            if step not in known:
                trial.report(value, step=step)
        return bool(trial.should_prune())

    def record_end(self, job: Job) -> None:
        states = self.optuna.trial.TrialState
        value = (job["metric"] or {}).get("value")
        if job["status"] == "finished" and value is None and self.best() is None:
            self.unmeasured = unmeasured(str(self.ledger.content.get("metric")), job_figures(job))
        trial = self.study.get_trials(deepcopy=False)[job["trial"]]
        state = states.FAIL if value is None or value != value else states.COMPLETE
        state = states.PRUNED if job["status"] == "pruned" else state
        values = float(value) if value is not None and state == states.COMPLETE else None
        if trial.state == states.RUNNING:
            self.study.tell(job["trial"], values, state=state)
        elif trial.state in (states.FAIL, states.PRUNED) and state == states.COMPLETE and not job.get("told"):
            job["told"] = True  # failed or pruned first, resumed since
            self.study.add_trial(
                self.optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=values)
            )
        self.ledger.write()

    def best(self) -> str | None:
        """The best job's overrides and figure, in one line."""
        done = [job for job in self.ledger.jobs if job["metric"] and job["metric"]["value"] == job["metric"]["value"]]
        if not done:
            return None
        choose = max if self.settings["direction"] == "maximize" else min
        job = choose(done, key=lambda job: job["metric"]["value"])
        figure = f"{job['metric']['name']} = {job['metric']['value']:.6g}"
        return f"best: job {job['index']}, {figure}, with {job['overrides']} ({job['folder']})"
