"""Which rank of a run this process is, before there is a process group: by torchrun, Lightning or srun."""

from __future__ import annotations

import os
import warnings


def rank() -> int:
    """Among all processes of the run; 0 where nobody started others."""
    names = ["RANK", "LOCAL_RANK"]
    if os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):  # as Lightning tells srun from a shell
        names.append("SLURM_PROCID")
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), 0)


def local_rank() -> int:
    """Among the processes of this machine."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def torchrun_rank() -> int | None:
    """None where torchrun did not start this process."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ else None


def warn_once(message: str) -> None:
    """A UserWarning on rank 0 only; Python shows each text once in a process."""
    if rank() == 0:
        warnings.warn(message, stacklevel=3)
