"""What each rank of a whole run saw, in a file of its own, for tests that compare ranks."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from vlp.training.callbacks.ranks_agree import fingerprint


class RankNotes(Callback):
    """folder: gets rank_<number>.json: the sha256 of the config file that was read, the samples of each step, the figures of
    each validation, the weights at the end, and how many steps were made."""

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)
        config = Path(sys.argv[1])
        self.notes: dict[str, Any] = {"config": str(config), "sha256": hashlib.sha256(config.read_bytes()).hexdigest()}
        self.notes |= {"samples": {}, "figures": []}

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.notes["samples"][trainer.global_step] = batch.sample.tolist()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.notes["figures"].append({k: float(v) for k, v in trainer.callback_metrics.items() if "val/" in k})

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.notes["weights"] = {name: int(fingerprint(value)) for name, value in pl_module.state_dict().items()}
        self.notes |= {"steps": trainer.global_step, "world": trainer.world_size}
        (self.folder / f"rank_{trainer.global_rank}.json").write_text(json.dumps(self.notes))
