"""Pictures of a run in RUN/plots and in its loggers: retrieved images with captions, a similarity matrix, detected
things and classes of pixels after each evaluation, loss curves at the end of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from vlp.report.detections import plot_detections, plot_grounded_phrases
from vlp.report.label_maps import plot_label_maps
from vlp.report.plots import (
    plot_label_curves,
    plot_loss_curves,
    plot_retrieved_captions,
    plot_retrieved_images,
    plot_similarity_matrix,
    read_curves,
)
from vlp.training.loggers import log_detections, log_masks, log_pictures


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
            for kind in ("label_maps", "panoptic"):
                if figures.get(kind):
                    log_masks(trainer.loggers, trainer.global_step, "/".join([*place, f"{kind}_masks"]), figures[kind])
            if figures.get("detections"):
                log_detections(trainer.loggers, trainer.global_step, "/".join([*place, "boxes"]), figures["detections"])
        log_pictures(trainer.loggers, trainer.global_step, pictures)


def _draw_similarity(matrix: Mapping[str, Any], path: Path) -> None:
    plot_similarity_matrix(matrix["images"], matrix["captions"], matrix["scores"].tolist(), path)


# how each kind of material in a task's `figures` is drawn; other kinds have no picture
DRAWINGS: Mapping[str, Callable[[Any, Path], None]] = {
    "image_to_text": plot_retrieved_captions,
    "text_to_image": plot_retrieved_images,
    "similarity": _draw_similarity,
    "label_curves": plot_label_curves,
    "detections": plot_detections,
    "grounded": plot_grounded_phrases,
    "label_maps": plot_label_maps,
    "panoptic": plot_label_maps,
}


def draw_pictures(figures: Mapping[str, Any], stem: Path) -> dict[str, Path]:
    """Every picture that a task's `figures` hold material for; its kind → the file."""
    drawn = {kind: stem.with_name(f"{stem.name}_{kind}.png") for kind in DRAWINGS if figures.get(kind)}
    for kind, path in drawn.items():
        DRAWINGS[kind](figures[kind], path)
    return drawn
