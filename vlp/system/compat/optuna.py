"""What vlp needs of Optuna beyond its public names. tests/system/compat/test_optuna.py states what each one has to do."""

from __future__ import annotations

from typing import Any


def reopen_trial(study: Any, number: int) -> Any:
    """The running trial of this number, to which intermediate values can be reported, also after the process that asked for it
    has ended. `optuna.trial.Trial` is public, and takes an id that no public name gives."""
    import optuna

    return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
