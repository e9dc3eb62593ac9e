"""A trial of an earlier process takes intermediate values."""

from __future__ import annotations

import pytest

from vlp.system.compat.optuna import reopen_trial

optuna = pytest.importorskip("optuna")


def test_a_running_trial_is_reopened_by_its_number() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    first, second = study.ask(), study.ask()
    reopen_trial(study, first.number).report(1.0, step=1)
    study.tell(first.number, 1.0)
    trial = reopen_trial(study, second.number)
    trial.report(2.0, step=1)
    assert [dict(found.intermediate_values) for found in study.get_trials()] == [{1: 1.0}, {1: 2.0}]
    assert trial.should_prune()
