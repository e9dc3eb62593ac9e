"""Where figures go: `metrics.jsonl` in every run folder, and on request W&B, CSV or TensorBoard beside it.

W&B runs offline when no key is found and never asks for one; `wandb sync RUN/wandb/offline-run-…` uploads later.
Secrets in the configuration (keys named like token, key, secret, password) are never logged.
"""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from omegaconf import OmegaConf
from wandb import Settings

from vlp.data.masks import decode_mask
from vlp.data.view import VOID_CLASS
from vlp.launch.runs.folder import read_frozen_config
from vlp.launch.runs.wandb_environment import RUN_ID, wandb_mode
from vlp.report.drawing import example_photo
from vlp.report.label_maps import plain_example
from vlp.system.compat.lightning import drop_wandb_argument
from vlp.system.compat.wandb import forget_service
from vlp.training.lifecycle.checkpoint_files import BEST


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
    """csv/version_<n>/metrics.csv, one for each process that continues with the run, for Lightning's begins its file again."""
    return CSVLogger(save_dir=folder, name="csv")


def tensorboard(*, folder: str | Path) -> TensorBoardLogger:
    return TensorBoardLogger(save_dir=folder, name="tensorboard", version="")


class Wandb(WandbLogger):
    """Lightning's, for a run folder that several processes in turn may write to as one W&B run.

    Where W&B's own service process dies, W&B is given up with one warning and training continues: metrics.jsonl has it all.
    """

    def __init__(self, *, folder: Path, artifact: bool, **arguments: Any) -> None:
        super().__init__(save_dir=folder, **arguments)
        drop_wandb_argument(self, "anonymous")
        self.folder, self.artifact = folder, artifact
        self.lost = False
        self._warned: float | None = None  # when the file was written that is an artifact already
        # offline a process does not know how far an earlier one has counted, and W&B drops what it has counted already:
        # one row for each line of metrics.jsonl and at most one for each picture or table
        lines = sum(1 for _ in (folder / "metrics.jsonl").open("rb")) if (folder / "metrics.jsonl").is_file() else 0
        self._first_row = lines + sum(file.is_file() for file in (folder / "wandb").glob("*/files/media/**/*"))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = dict(metrics) if step is None else {**metrics, "trainer/global_step": step}

        def send() -> None:
            run: Any = self.experiment
            run.log(row, step=max(run.step, self._first_row), commit=True)

        self._send_or_warn(send)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self._send_or_warn(lambda: super(Wandb, self).log_image(key, images, step, **kwargs))

    @rank_zero_only
    def log_table(self, key: str, *args: Any, **kwargs: Any) -> None:
        self._send_or_warn(lambda: super(Wandb, self).log_table(key, *args, **kwargs))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        path = self.folder / "checkpoints" / BEST
        if status != "success" or not self.artifact or not path.exists():
            return
        written = path.stat().st_mtime
        if written != self._warned:  # at the end of training, and again of testing
            self._warned = written
            self._send_or_warn(lambda: self._log_best(path))

    def _log_best(self, path: Path) -> None:
        from wandb import Artifact

        run: Any = self.experiment
        artifact = Artifact(name=f"best-{run.id}", type="model", metadata={"folder": self.folder.name})
        if path.is_dir():
            artifact.add_dir(str(path), name=path.name)
        else:
            artifact.add_file(str(path), name=path.name)
        run.log_artifact(artifact, aliases=["best"])

    def _send_or_warn(self, send: Callable[[], None]) -> None:
        if self.lost:
            return
        try:
            send()
        except Exception as error:
            self.lost = True
            rank_zero_warn(
                f"W&B is lost ({type(error).__name__}: {error}); training continues, and {self.folder / 'metrics.jsonl'} "
                "has every figure"
            )
            forget_service()


def wandb(
    *,
    folder: str | Path,
    project: str | None = "vlp",
    entity: str | None = None,
    group: str | None = None,
    name: str | None = None,
    id: str | None = None,
    tags: Sequence[str] | None = None,
    mode: str | None = None,
    api_key: str | None = None,
    log_model: bool = False,
) -> Wandb:
    """name: None = that of the folder.  id: of the W&B run; None = a new one.  mode: online, offline, disabled; None = $WANDB_MODE,
    else online when a key is found, else offline.  log_model: best.ckpt as an artifact, at the end.

    Each run folder is one W&B run, of which every process that continues with it finds the id there.
    Its config is the frozen one, in which secrets are names of environment variables.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    mode = wandb_mode(mode, api_key)
    os.environ.pop(RUN_ID, None)  # inherited: the launcher has given it to its run folder already
    folder = Path(folder)
    frozen = folder / "config.yaml"
    return Wandb(
        folder=folder, artifact=log_model, project=project or "vlp", entity=entity or None, group=group or None,
        tags=list(tags or ()), mode=mode, name=name or "/".join(folder.resolve().parts[-2:]), id=_run_id(folder) or id,
        config=OmegaConf.to_container(read_frozen_config(frozen), resolve=False) if frozen.is_file() else None,
        settings=Settings(silent=True, console="off", api_key=api_key),
    )  # fmt: skip


def _run_id(folder: Path) -> str | None:
    """Of the W&B run that an earlier process began in this folder."""
    earlier = sorted(path for path in (folder / "wandb").glob("*run-*-*") if path.is_dir() and not path.is_symlink())
    return earlier[-1].name.rpartition("-")[2] if earlier else None


def log_results(loggers: list[Logger], results: Mapping[str, Any]) -> None:
    """The numbers of results.json as a table of W&B."""
    rows = [[name, float(value)] for name, value in results.items() if isinstance(value, (int, float))]
    for logger in loggers:
        if isinstance(logger, Wandb):
            logger.log_table(key="results", columns=["figure", "value"], data=rows, step=results.get("steps"))


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


def log_detections(loggers: list[Logger], step: int, name: str, examples: Sequence[Mapping[str, Any]]) -> None:
    """W&B's own boxes and masks, which its page switches on and off.  examples: see `plot_detections`."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key=name, images=[wandb_image(example) for example in examples], step=step)


def log_masks(loggers: list[Logger], step: int, name: str, figures: Mapping[str, Any]) -> None:
    """W&B's own masks, which its page switches on and off.  figures: see `plot_label_maps`."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key=name, images=wandb_masks(figures), step=step)


def wandb_masks(figures: Mapping[str, Any]) -> list[Any]:
    """The photos with masks of the true and the predicted classes; 255 is no class."""
    from wandb import Image

    names = {**dict(enumerate(figures["names"])), VOID_CLASS: "none"}
    examples = [plain_example(example) for example in figures["examples"]]
    return [
        Image(
            example_photo(example),
            masks={kind: {"mask_data": example[kind], "class_labels": names} for kind in ("truth", "predicted")},
        )
        for example in examples
    ]


def wandb_image(example: Mapping[str, Any]) -> Any:
    """The photo with boxes of "found" and "truth" in its pixels and, where there are masks, one of the found things' classes (0:
    nothing; a more probable thing covers a less probable one)."""
    from wandb import Image

    picture = example_photo(example)
    names: dict[int, str] = dict(enumerate(example["names"], start=1))
    numbers = {name: number for number, name in names.items()}
    boxes = {
        kind: {"box_data": [_wandb_box(thing, numbers) for thing in things], "class_labels": names}
        for kind, things in (("found", example["things"]), ("truth", example["truth"]))
    }
    masks = None
    if any("mask" in thing for thing in example["things"]):
        classes = np.zeros((picture.height, picture.width), dtype=np.uint16)
        for thing in reversed(example["things"]):  # the most probable comes first
            classes[decode_mask(thing["mask"], height=picture.height, width=picture.width)] = numbers[thing["label"]]
        masks = {"found": {"mask_data": classes, "class_labels": {0: "nothing", **names}}}
    return Image(picture, boxes=boxes, masks=masks)


def _wandb_box(thing: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    left, top, right, bottom = thing["box"]
    data: dict[str, Any] = {
        "position": {"minX": left, "maxX": right, "minY": top, "maxY": bottom},
        "domain": "pixel",
        "class_id": numbers[thing["label"]],
    }
    if "score" not in thing:
        return data
    return data | {"box_caption": f"{thing['label']} {thing['score']:.2f}", "scores": {"score": thing["score"]}}
