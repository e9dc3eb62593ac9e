"""What vlp needs of W&B beyond its public names. tests/system/compat/test_wandb.py states what each one has to do."""

from __future__ import annotations

import logging
import sys

log = logging.getLogger(__name__)


def forget_service() -> None:
    """Give up W&B's service process, which has died or does not answer: nothing waits for it when this process exits.

    `wandb.teardown` is public but fails where the service is gone, and then leaves the connection in
    `wandb.sdk.wandb_setup._singleton`, which `wandb` uses again at exit: the process would end with an error, or hang.
    """
    import wandb
    from wandb.sdk import wandb_setup

    try:
        wandb.teardown(exit_code=1)
    except Exception:  # which is how it answers without its service
        log.debug("wandb teardown", exc_info=True)
    wandb_setup._singleton = None
    wandb.run = None


def finish_wandb() -> None:
    """Ends W&B's run, where this process has one, before the folder that it writes to is removed."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        forget_service()
