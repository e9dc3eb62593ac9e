"""sweep=optuna: ask, run, tell, with a journal that a killed sweep continues from."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.launch.sweep.stand_in_sweeps import finish, jobs_of, lines, sweep_folder, wait_until

pytestmark = pytest.mark.slow  # whole processes, several minutes in all

optuna = pytest.importorskip("optuna")

SPACE = (
    "sweep=optuna",
    "optimizer.lr=tag(log, interval(1e-5,1e-1))",
    "data.batch_size=range(4,17,4)",
    "model/vision=vit,resnet",
)


def trials(launch: Any) -> list[Any]:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(sweep_folder(launch) / "optuna.log")))
    return optuna.load_study(study_name="sweep", storage=storage).get_trials()


def values(launch: Any) -> list[str]:
    return [job["overrides"] for job in jobs_of(launch)]


def test_the_same_seed_suggests_the_same_also_over_a_kill(launch: Any, conf: Any) -> None:
    arguments = (
        "train",
        "-m",
        *SPACE,
        "sweep.trials=13",
    )  # from the eleventh on, the sampler is a model of the results
    out, _ = finish(launch(*arguments))
    straight, told = values(launch), [trial.values for trial in trials(launch)]
    assert len(set(straight)) == 13
    best = max(jobs_of(launch), key=lambda job: job["metric"]["value"])
    assert f"best: job {best['index']}, " in out
    assert all(trial.state.name == "COMPLETE" for trial in trials(launch))
    for trial, job in zip(trials(launch), jobs_of(launch), strict=True):
        assert trial.values == [job["metric"]["value"]]
        assert f"data.batch_size={trial.params['data.batch_size']}" in job["overrides"]
        assert 1e-5 <= trial.params["optimizer.lr"] <= 1e-1
    sweep_folder(launch).rename(conf.parent / "straight")

    (conf.parent / "go").touch()
    sweep = launch(*arguments, "data.root=hold")
    wait_until(lambda: len(list(launch.folder.glob("runs/*/*/*/begun"))) == 11)
    (conf.parent / "go").unlink()
    sweep.kill()
    sweep.wait()
    (conf.parent / "go").touch()
    finish(launch("resume", str(sweep_folder(launch))))
    assert values(launch) == straight
    assert [trial.values for trial in trials(launch)] == told

    sweep_folder(launch).rename(conf.parent / "resumed")
    finish(launch(*arguments[:-1], "sweep.trials=3", "sweep.seed=1"))
    assert values(launch) != straight[:3]


def test_a_stopped_job_is_run_again_with_its_own_values(launch: Any) -> None:
    sweep = launch("train", "-m", *SPACE, "sweep.trials=2", "data.root=slow")
    wait_until(lambda: list(launch.folder.glob("runs/*/*/*/begun")))
    sweep.send_signal(signal.SIGTERM)
    finish(sweep, 143)
    (job,) = jobs_of(launch)
    assert job["status"] == "stopped"
    assert [trial.state.name for trial in trials(launch)] == ["RUNNING"]
    first = values(launch)
    for number in range(2):  # the second job of the sweep is slow too, until it finds a checkpoint
        resumed = launch("resume", str(sweep_folder(launch)))
        if number == 0:
            wait_until(lambda: len(list(launch.folder.glob("runs/*/*/*/begun"))) == 2)
            resumed.send_signal(signal.SIGTERM)
        finish(resumed, 143 if number == 0 else 0)
    assert values(launch)[:1] == first
    assert len(lines(launch, jobs_of(launch)[0], "starts")) == 2
    assert [trial.state.name for trial in trials(launch)] == ["COMPLETE"] * 2


def test_failed_jobs_are_told_and_what_was_made_good_is_learned(launch: Any) -> None:
    finish(launch("train", "-m", *SPACE, "sweep.trials=4", "sweep.jobs=2", "seed=1", "data.root=crash_once"), 1)
    assert {job["status"] for job in jobs_of(launch)} == {"failed"}
    assert [trial.state.name for trial in trials(launch)] == ["FAIL"] * 4
    finish(launch("resume", str(sweep_folder(launch))))
    assert {job["status"] for job in jobs_of(launch)} == {"finished"}
    assert sorted(trial.state.name for trial in trials(launch)) == ["COMPLETE"] * 4 + ["FAIL"] * 4


PRUNED = (*SPACE, "sweep.trials=3", "sweep.pruner=median", "sweep.pruner_startup_trials=1", "data.root=decline")


def test_a_trial_that_falls_behind_is_stopped_with_a_checkpoint_and_can_be_finished(launch: Any) -> None:
    out, _ = finish(launch("train", "-m", *PRUNED))
    jobs = jobs_of(launch)
    assert [job["status"] for job in jobs] == ["finished", "pruned", "pruned"]
    assert [job["exit_code"] for job in jobs] == [0, 143, 143]
    assert [len(lines(launch, job, "checkpoint")) for job in jobs] == [0, 1, 1]
    assert [trial.state.name for trial in trials(launch)] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert trials(launch)[0].intermediate_values == {1: 1, 2: 2, 3: 3}
    assert "falls behind the others" in out
    assert "best: job 0, " in out
    finish(launch("resume", str(sweep_folder(launch))))  # which leaves them alone
    assert [job["status"] for job in jobs_of(launch)] == ["finished", "pruned", "pruned"]
    results = {"val/scenes/retrieval/rsum": 99.0}  # of a run that went on by itself: train resume=FOLDER
    (launch.folder / jobs[1]["folder"] / "results.json").write_text(json.dumps(results))
    assert "best: job 1, " in finish(launch("resume", str(sweep_folder(launch))))[0]
    assert [trial.state.name for trial in trials(launch)] == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]


@pytest.mark.parametrize("metric", ["sweep.metric=null", "sweep.metric=val/scenes/retrieval/rsun"])
def test_a_search_whose_first_trial_has_no_such_figure_ends(launch: Any, metric: str) -> None:
    _, err = finish(launch("train", "-m", *SPACE, metric, "sweep.trials=4", "data.root=unmeasured"), 2)
    assert "there is no best trial: val/scenes/retrieval/rsu" in err
    assert "set sweep.metric to one of val/scenes/retrieval/image_to_text_r1" in err
    assert len(jobs_of(launch)) == 1
    finish(launch("resume", str(sweep_folder(launch))), 2)


def test_a_grid_whose_jobs_have_no_such_figure_does_not_end_well(launch: Any) -> None:
    _, err = finish(launch("train", "-m", "seed=1,2", "sweep.metric=val/scenes/retrieval/rsun"), 2)
    assert "val/scenes/retrieval/rsun was not measured: set sweep.metric to one of" in err


def test_without_optuna_the_extra_is_named(launch: Any, tmp_path: Any) -> None:
    (tmp_path / "optuna.py").write_text("raise ModuleNotFoundError('optuna', name='optuna')\n")
    _, err = finish(launch("train", "-m", *SPACE), 2)
    assert "pip install 'vlp[sweep]'" in err
