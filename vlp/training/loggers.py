"""Where figures go: `metrics.jsonl` in every run folder, and on request W&B, CSV or TensorBoard beside it.

W&B runs offline when no key is found and never asks for one; `wandb sync RUN/wandb/offline-run-…` uploads later.
Secrets in the configuration (keys named like token, key, secret, password) are never logged.
"""

from __future__ import annotations

import json
import logging
import netrc
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from wandb import Settings

log = logging.getLogger(__name__)


class JsonLines(Logger):
    """One line per call, {"step", "time" (seconds since 1970), name: value …}, flushed at once: a killed run keeps all
    but at most its last line."""

    def __init__(self, *, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.jsonl"

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return "jsonl"

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3)} | metrics) + "\n")

    @rank_zero_only
    def rewind(self, size: int | None) -> None:
        """Cuts off what was logged after a checkpoint, when there were so many bytes; the steps are done again."""
        if size is not None and self.path.exists() and self.path.stat().st_size > size:
            os.truncate(self.path, size)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run folder already holds config.yaml."""


def csv(*, folder: str | Path) -> CSVLogger:
    return CSVLogger(save_dir=folder, name="csv", version="")


def tensorboard(*, folder: str | Path) -> TensorBoardLogger:
    return TensorBoardLogger(save_dir=folder, name="tensorboard", version="")


def wandb(
    *,
    folder: str | Path,
    project: str = "vlp",
    entity: str | None = None,
    group: str | None = None,
    tags: tuple[str, ...] = (),
    mode: str | None = None,
) -> WandbLogger:
    """mode: online, offline, disabled; None = $WANDB_MODE, else online when a key is found, else offline.

    Each run folder is one W&B run, named after the folder.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    mode = mode or os.environ.get("WANDB_MODE") or ("online" if _has_wandb_key() else "offline")
    folder = Path(folder)
    parts = folder.resolve().parts[-2:]
    logger = WandbLogger(
        save_dir=folder, project=project, entity=entity, group=group, tags=list(tags), mode=mode, name="/".join(parts),
        settings=Settings(silent=True, console="off"),
    )  # fmt: skip
    logger._wandb_init.pop("anonymous", None)  # Lightning always passes it on, and wandb warns that it has no effect
    return logger


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_pictures(loggers: list[Logger], step: int, pictures: dict[str, Path]) -> None:
    """The same pictures that lie in the run folder, in every logger that can show them."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            for name, path in pictures.items():
                logger.log_image(key=name, images=[str(path)], step=step)
        elif isinstance(logger, TensorBoardLogger):
            from PIL import Image
            from torchvision.transforms.v2.functional import pil_to_tensor

            for name, path in pictures.items():
                logger.experiment.add_image(name, pil_to_tensor(Image.open(path).convert("RGB")), step)
