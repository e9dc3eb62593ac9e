"""Faults on order, for tests of what a run survives: VLP_FAULTS="site=before_backward,step=5,rank=1,kind=sigkill".

Several are separated by ';'. Keys: site (of those below); kind; and, where a fault is not for every visit, step (optimiser
steps done), rank, count (the how-manieth visit of the site, from 1), and once (a file that is made when the fault
strikes, and that keeps it from striking again after a restart). Without the variable nothing is read and nothing happens.

Sites: build (parts are built), fit (training begins), batch (before a step), before_backward, step (after an optimiser
step), validation (a batch of it), writing (half of a checkpoint is written), replacing (all of it, under its temporary
name), test (a batch of it), teardown (after the results), loading (a data worker, before a sample).
Kinds: a signal's name such as sigkill, sigterm, sigint, sigusr1, sigstop, sigsegv; raise (a RuntimeError); exit (code 1, at
once); hang (sleeps for ever); nan (the loss becomes NaN, at before_backward); full_disk (OSError ENOSPC, at writing).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from functools import cache
from pathlib import Path

from vlp.system.errors import UserError
from vlp.system.ranks import local_rank

SITES = (
    "build", "fit", "batch", "before_backward", "step", "validation", "writing", "replacing", "test", "teardown", "loading",
)  # fmt: skip
KINDS = ("raise", "exit", "hang", "nan", "full_disk")
_visits: Counter[str] = Counter()


@cache
def planned_faults(text: str) -> tuple[dict[str, str], ...]:
    """The faults of VLP_FAULTS.  Raises UserError on what it does not know."""
    faults = []
    for part in filter(None, text.split(";")):
        fault = dict(pair.partition("=")[::2] for pair in part.strip().split(","))
        unknown = set(fault) - {"site", "kind", "step", "rank", "count", "once"}
        kind = fault.get("kind", "")
        known = kind in KINDS or (kind.startswith("sig") and hasattr(signal, kind.upper()))
        if unknown or fault.get("site") not in SITES or not known:
            raise UserError(f"VLP_FAULTS={text}: give site={'|'.join(SITES)} and kind=sig…|{'|'.join(KINDS)}")
        faults.append(fault)
    return tuple(faults)


def inject(site: str, *, step: int | None = None, rank: int | None = None) -> bool:
    """Strikes here if VLP_FAULTS says so. True: the caller has to spoil its loss (kind=nan)."""
    text = os.environ.get("VLP_FAULTS")
    if not text:
        return False
    _visits[site] += 1
    rank = local_rank() if rank is None else rank
    here = {"step": step, "rank": rank, "count": _visits[site]}
    for fault in planned_faults(text):
        conditions = {key: int(fault[key]) for key in here if key in fault}
        if fault["site"] != site or any(here[key] != value for key, value in conditions.items()):
            continue
        if "once" in fault:
            try:
                Path(fault["once"]).open("x").close()
            except FileExistsError:
                continue
        if _inject_fault(fault["kind"]):
            return True
    return False


def _inject_fault(kind: str) -> bool:
    if kind.startswith("sig"):
        os.kill(os.getpid(), getattr(signal, kind.upper()))
    elif kind == "raise":
        raise RuntimeError("a fault was ordered by VLP_FAULTS")
    elif kind == "full_disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif kind == "exit":
        os._exit(1)
    elif kind == "hang":
        while True:
            time.sleep(3600)
    return kind == "nan"
