"""The last frame of a run's process: a mistake in data or settings ends in one sentence, its traceback in the run folder.

The exit codes are those of vlp/system/exit_codes.py.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from vlp.data.loader import DataWorkerLost
from vlp.launch.runs.folder import NEW_RUN_FOLDER, remove_run_folder
from vlp.system import exit_codes, ranks
from vlp.system.compat.torch import data_worker_died, lost_connection
from vlp.system.compat.wandb import finish_wandb
from vlp.system.errors import is_user_error
from vlp.system.pipes import OutputWithoutReader
from vlp.system.secrets import hide_in_tracebacks, known_secrets, redact
from vlp.training.lifecycle.nonfinite import NotFinite
from vlp.training.lifecycle.signals import SIGNALS, RunStopped


def run_entry_point(name: str, function: Callable[[Path], Any]) -> None:
    """`function` of the config file on the command line.

    The text of a UserError or an OSError is printed and the process exits with 2 (4 where training diverged); of DataWorkerLost
    with 1. Anything else is a defect, of vlp or of a library, and keeps its traceback.
    """
    config = Path(sys.argv[1])
    rank = ranks.rank()
    end_with_parent()
    if sys.stdout is sys.__stdout__:
        sys.stdout = OutputWithoutReader(sys.stdout)  # type: ignore[assignment, arg-type]  # `train.py | head` trains on
    SIGNALS.install()
    secrets = known_secrets(config)
    hide_in_tracebacks(secrets)
    try:
        _run_and_exit(function, config)
    except RunStopped as stopped:
        _report_stop(name, config, rank, stopped)
    except (
        MisconfigurationException,
        OmegaConfBaseException,
    ) as error:  # a device that is not there; a secret that is not set
        _report_error(f"{name}: {' '.join(str(error).split())}", config, rank, secrets, exit_codes.MISTAKE)
    except Exception as error:
        if isinstance(error, DataWorkerLost) or is_user_error(error):
            if (
                isinstance(error, DataWorkerLost) and SIGNALS.stop_code
            ):  # the signal that stopped this run reached its workers, too
                _report_stop(name, config, rank, RunStopped(SIGNALS.stop_code))
            whose = f"rank {rank}: " if rank else ""
            _report_error(f"{name}: {whose}{error}", config, rank, secrets, _exit_code(error))
        if not has_several_processes():
            raise
        if code := SIGNALS.stop_requested():  # this rank waited for one that a signal stopped
            _report_stop(name, config, rank, RunStopped(code))
        _write_failure(config, rank, secrets)
        first = _first_failure(config)
        if first is not None and first[0] != rank:  # this one only lost its partner
            print(f"{name}: rank {first[0]} failed first: {redact(first[1], secrets)}", file=sys.stderr, flush=True)
        elif lost_connection(error):
            print(f"{name}: rank {rank} lost another rank, which was killed: {error}", file=sys.stderr, flush=True)
        raise


def _run_and_exit(function: Callable[[Path], Any], config: Path) -> None:
    try:
        function(config)
    except RuntimeError as error:
        if isinstance(error, DataWorkerLost) or not data_worker_died(error):
            raise
        raise DataWorkerLost(f"a data worker died ({error}); resume with resume={config.parent}") from error


def _report_error(sentence: str, config: Path, rank: int, secrets: Any, code: int) -> None:
    """In the exception's handler. Of a mistake before anything was trained or measured no run folder stays that the command has
    created; with HYDRA_FULL_ERROR=1 the traceback is printed then."""
    created = os.environ.get(NEW_RUN_FOLDER) == str(config.parent)
    issues = config.parent / "data_issues.jsonl"  # the list of unreadable files is worth keeping
    began = SIGNALS.began or (issues.is_file() and issues.stat().st_size)
    if code == exit_codes.MISTAKE and created and not began and not has_several_processes():
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            print(redact(traceback.format_exc(), secrets), file=sys.stderr)
        finish_wandb()
        remove_run_folder(config.parent)
    else:
        _write_failure(config, rank, secrets)
        sentence = f"{sentence} (traceback: {_failure_file(config, rank)})"
    print(redact(sentence, secrets), file=sys.stderr, flush=True)
    _flush_and_exit(code)


def _exit_code(error: Exception) -> int:
    if isinstance(error, DataWorkerLost):
        return exit_codes.FAILED
    return exit_codes.DIVERGED if isinstance(error, NotFinite) else exit_codes.MISTAKE


def _report_stop(name: str, config: Path, rank: int, stopped: RunStopped) -> None:
    if rank == 0:
        print(f"{name}: {stopped}; resume with resume={config.parent}", file=sys.stderr, flush=True)
    _flush_and_exit(stopped.code)


def end_with_parent() -> None:
    """A rank that was started by another ends when that one does, also when it was killed (Linux)."""
    if sys.platform == "linux" and ranks.local_rank() and "TORCHELASTIC_RUN_ID" not in os.environ:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def has_several_processes() -> bool:
    """Whether the run has several processes, of which the first that fails is reported."""
    return (
        SIGNALS.has_other_ranks or int(os.environ.get("WORLD_SIZE", "1")) > 1
    )  # which Lightning removes when it fails


def _failure_file(config: Path, rank: int) -> Path:
    return config.parent / ("error.txt" if rank == 0 else f"error_rank_{rank}.txt")


def _write_failure(config: Path, rank: int, secrets: Any) -> None:
    try:
        _failure_file(config, rank).write_text(redact(traceback.format_exc(), secrets), encoding="utf-8")
    except OSError:  # a full disk must not hide what happened
        traceback.print_exc()


def _first_failure(config: Path) -> tuple[int, str] | None:
    """The rank that failed first, and its last line."""
    files = [config.parent / "error.txt", *config.parent.glob("error_rank_*.txt")]
    files = sorted((file for file in files if file.exists()), key=lambda file: file.stat().st_mtime)
    if not files:
        return None
    number = files[0].stem.removeprefix("error_rank_")
    return (int(number) if number.isdigit() else 0), files[0].read_text(encoding="utf-8").strip().splitlines()[-1]


def _flush_and_exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code) if has_several_processes() else sys.exit(code)
