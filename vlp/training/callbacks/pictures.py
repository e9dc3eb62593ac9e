"""Pictures of a run in RUN/plots and in its loggers: retrieved images with captions and a similarity matrix after each
evaluation, loss curves at the end of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from vlp.report.plots import (
    plot_label_curves,
    plot_loss_curves,
    plot_retrieved_captions,
    plot_retrieved_images,
    plot_similarity_matrix,
    read_curves,
)
from vlp.training.loggers import log_pictures


class Pictures(Callback):
    """folder: of the run. Files are named <split>_<task>_<picture>.png, in a run of several sources
    <split>_<source>_<task>_<picture>.png, and overwritten by the next evaluation.
    """

    def __init__(self, *, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._draw(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._draw(trainer, pl_module, "test")

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        metrics = self.folder / "metrics.jsonl"
        if trainer.is_global_zero and metrics.exists() and (curves := read_curves(metrics)):
            path = self.folder / "plots" / "curves.png"
            visible = {
                name: c for name, c in curves.items() if name.startswith(("train/", "val/")) and "chance" not in name
            }
            plot_loss_curves(visible, path)
            log_pictures(trainer.loggers, trainer.global_step, {"curves": path})

    def _draw(self, trainer: L.Trainer, module: Any, split: str) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        pictures: dict[str, Path] = {}
        several = len(trainer.datamodule.sources) > 1  # type: ignore[attr-defined]
        for (source, task), figures in module.measurement.pictured.items():
            place = [split, source, task] if several else [split, task]
            for kind, path in draw_pictures(figures, self.folder / "plots" / "_".join(place)).items():
                pictures["/".join([*place, kind])] = path
        log_pictures(trainer.loggers, trainer.global_step, pictures)


def draw_pictures(figures: Mapping[str, Any], stem: Path) -> dict[str, Path]:
    """Every picture that a task's `figures` hold material for; its kind → the file."""
    paths = {kind: stem.with_name(f"{stem.name}_{kind}.png") for kind in figures}
    if figures.get("image_to_text"):
        plot_retrieved_captions(figures["image_to_text"], paths["image_to_text"])
    if figures.get("text_to_image"):
        plot_retrieved_images(figures["text_to_image"], paths["text_to_image"])
    if "similarity" in figures:
        matrix = figures["similarity"]
        plot_similarity_matrix(matrix["images"], matrix["captions"], matrix["scores"].tolist(), paths["similarity"])
    if "label_curves" in figures:
        plot_label_curves(figures["label_curves"], paths["label_curves"])
    drawn = ("image_to_text", "text_to_image", "similarity", "label_curves")
    return {kind: path for kind, path in paths.items() if kind in drawn}
