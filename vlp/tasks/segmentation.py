"""Semantic segmentation: a class for every pixel, by a linear probe, by a map that learns to upsample, or without training by
MaskCLIP's rule; scored by vectors of the classes or by texts of their names.

Measured at the photo's own size, against the file of the photo's classes: logits are enlarged, then the best class is taken.
One confusion matrix of all photos gives mean IoU by both rules in use, see `vlp.metrics.mean_iou`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vlp import distributed
from vlp.data.pixel_labels import read_class_map
from vlp.data.view import VOID_CLASS
from vlp.metrics.mean_iou import class_ious, confusion_matrix, mean_iou
from vlp.models.dense.class_tables import class_table
from vlp.models.dense.label_files import ResultFolder, write_label_map
from vlp.models.dense.mask_clip import check_mask_clip, zero_shot_logits
from vlp.models.dense.photo_pixels import read_at_photo
from vlp.models.dense.places import image_extent
from vlp.models.dense.segmenter import Segmenter
from vlp.models.dense.sliding import sliding_logits
from vlp.models.dense.vocabulary import Vocabulary, prompt_templates
from vlp.models.precision import apply_head, to_float32
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Image, Loss, Tokens, height_and_width, require, require_finite
from vlp.system.errors import UserError
from vlp.tasks.base import Task, figures_by_class

NAMES = ("classes", "texts")


class Segmentation(Task):
    """head: "linear", "pixels" (see `Segmenter`), or "zero_shot" (see `vlp.models.dense.mask_clip`; it learns nothing).
    names: what scores a pixel: "classes", a vector of each, or "texts", the embeddings of their names (always with zero_shot).
    segment_names: the classes of the vectors, and those that training asks for; evaluation by texts asks for the data's own.
    templates: prompts with {} for the name.  channels, up, levels: see `PixelMap`.
    states_width, embed_width, level_widths: of the model.
    class_weights: of each of segment_names in the cross-entropy; None = 1. A mean over the pixels of 1 keeps the size of the loss.
    window, stride: pixels, one number or [height, width], of windows over images larger than the tower's; None = all at once.
    flip: whether logits are those of the image and of its mirror image on average, which takes twice the time.
    results_folder: label maps of the photos with the data set's own values, as its benchmark takes them.
    pictures: how many photos `figures` holds.
    """

    requires = ("image", "segmentation")
    changeable = ("templates",)
    stored = (
        "head", "names", "segment_names", "channels", "up", "states_width", "embed_width", "levels", "level_widths",
        "templates",
    )  # fmt: skip

    def __init__(
        self, *, segment_names: Sequence[str], states_width: int, head: str = "pixels", names: str = "classes", channels: int = 64,
        up: int = 2, levels: Sequence[str] = (), level_widths: Sequence[int] = (), embed_width: int = 0,
        templates: Sequence[str] | None = None, class_weights: Sequence[int | float] | None = None,
        window: int | Sequence[int] | None = None, stride: int | Sequence[int] | None = None, flip: bool = False,
        results_folder: str | Path | None = None, pictures: int = 8,
        weight: float | list[list[float]] = 0.0, sources: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(weight=weight, sources=sources)
        if names not in NAMES:
            raise UserError(f"names={names} of a segmentation: choose {' or '.join(NAMES)}")
        if len(segment_names) > VOID_CLASS:
            raise UserError(
                f"{len(segment_names)} classes of pixels: at most {VOID_CLASS} have a number in a label map"
            )
        if class_weights is not None and len(class_weights) != len(segment_names):
            raise UserError(
                f"class_weights has {len(class_weights)} numbers for {len(segment_names)} classes: give one for each of "
                f"{', '.join(segment_names)}"
            )
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.segment_names, self.levels = tuple(segment_names), tuple(levels)  # type: ignore[misc]
        self.texts = names == "texts" or head == "zero_shot"
        self.needs = ("vision", "text", "projection") if self.texts else ("vision",)  # type: ignore[misc]
        self.templates, self.pictures = prompt_templates(templates), pictures
        self.window = None if window is None else height_and_width(window)
        self.stride = self.window if stride is None else height_and_width(stride)
        self.flip = flip
        self.uses = () if self.window or head == "zero_shot" else ("image",)  # type: ignore[misc]
        self.results_folder = None if results_folder is None else Path(results_folder)
        self.segmenter = None
        if head == "zero_shot" and self.weight:
            raise UserError("head=zero_shot learns nothing: set its weight to 0, or choose head=pixels")
        if head != "zero_shot":
            self.segmenter = Segmenter(
                head=head, states_width=states_width, channels=channels, up=up, levels=levels, level_widths=level_widths,
                classes=None if self.texts else len(self.segment_names), embed_width=embed_width,
            )  # fmt: skip
        self._asked: Vocabulary | None = None  # in training
        self._vocabulary: Vocabulary | None = None  # of the data that are measured
        self._names = self.segment_names  # of the columns in evaluation
        self._table = self._trained_table = class_table(
            self.segment_names, self.segment_names, task="segmentation", source="the data"
        )
        self._values: tuple[int, ...] | None = None  # of these classes in the data set's own files
        self._prepared = False
        self.reset()

    # -------------------------------------------------------------------------------------------------- preparation

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        names = tuple(getattr(data, "segment_names", None) or self.segment_names)
        if self.segmenter is None:
            check_mask_clip(model)
        if self.texts and self._asked is None:
            self._asked = Vocabulary(self.segment_names, tokenizer=tokenizer, templates=self.templates)
        if not self._prepared and self.weight:
            self._trained_table = class_table(names, self.segment_names, task="segmentation", source=data.name)
        self._prepared = True
        self._names = names if self.texts else self.segment_names
        self._vocabulary = Vocabulary(names, tokenizer=tokenizer, templates=self.templates) if self.texts else None
        self._table = (
            torch.arange(256)
            if self.texts
            else class_table(names, self.segment_names, task="segmentation", source=data.name)
        )
        values = getattr(data, "segment_ids", None)
        by_name = dict(zip(names, values, strict=True)) if values else {}
        self._values = tuple(by_name[name] for name in self._names) if set(self._names) <= by_name.keys() else None
        if self.results_folder is not None and self._values is None:
            raise UserError(f"results_folder: {data.name} does not say which values its classes have in label maps")

    # ----------------------------------------------------------------------------------------------------- training

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        """Cross-entropy, weighted by class, as the mean over the pixels with a class of all ranks."""
        assert self.segmenter is not None
        target = self._trained_table.to(batch.id.device)[require(batch.segmentation)]
        image = require(batch.image)
        tokens = features.image if features.image is not None else model.encode_image(image, levels=self.levels)
        if self.texts and self._asked is None:
            raise UserError("segmentation by texts was not prepared: call `prepare` with the training data first")
        logits = self.segmenter(tokens, None if self._asked is None else self._asked.embed(model))
        logits = F.interpolate(to_float32(logits), target.shape[-2:], mode="bilinear", align_corners=False)
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        summed = F.cross_entropy(logits, target, weights, ignore_index=VOID_CLASS, reduction="sum")
        counted = (target != VOID_CLASS).sum()
        return Loss(
            value=distributed.mean_over_ranks(summed, counted if distributed.world_size() > 1 else int(counted))
        )

    # --------------------------------------------------------------------------------------------------- evaluation

    def reset(self) -> None:
        self._confusion: Tensor | None = None
        self._results = None if self.results_folder is None else ResultFolder(self.results_folder)
        self._examples: list[dict[str, Any]] = []

    @torch.no_grad()
    def logits(
        self, model: VisionLanguageModel, image: Image, tokens: Tokens | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Of the prepared classes, in float32.  tokens: of these images, where they are known and no window is set."""
        texts = None if self._vocabulary is None else self._vocabulary.embed(model)

        def of_window(part: Image, tokens: Tokens | None = None) -> Float[Tensor, "b c _ _"]:
            if self.segmenter is None:
                return to_float32(zero_shot_logits(model, part, require(texts)))
            tokens = model.encode_image(part, levels=self.levels) if tokens is None else tokens
            return apply_head(self.segmenter, tokens, texts)

        def of_image(image: Image, tokens: Tokens | None = None) -> Float[Tensor, "b c _ _"]:
            if self.window is None or self.stride is None:
                return of_window(image, tokens)
            return sliding_logits(of_window, image, window=self.window, stride=self.stride)

        found = of_image(image, tokens)
        if self.flip:
            if image.size is not None:
                raise UserError(
                    "tasks.segmentation.flip=true mirrors images without padding, and these of one batch differ in size: use a "
                    "transform that gives all of them one size"
                )
            found = (found + of_image(Image(pixels=image.pixels.flip(-1))).flip(-1)) / 2
        return require_finite(found, "logits of the classes of pixels")

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        """Photos whose files are known count at their own size, others at that of the batch's images."""
        image, table = require(batch.image), self._table.to(batch.id.device)
        logits = self.logits(model, image, features.image)
        extent = image_extent(image, logits)
        confusion = torch.zeros(len(self._names), len(self._names), dtype=torch.int64, device=logits.device)
        for row in range(len(batch)):
            truth, predicted = self._predicted(batch, row, logits[row], extent[row])
            truth = table[truth.to(table.device)]
            confusion += confusion_matrix(truth, predicted, len(self._names))
            if batch.raw is not None:
                self._keep(batch, row, truth, predicted)
        self._confusion = confusion if self._confusion is None else self._confusion + confusion

    def _predicted(
        self, batch: Batch, row: int, logits: Float[Tensor, "c _ _"], extent: Float[Tensor, " 2"]
    ) -> tuple[Int[Tensor, "h w"], Int[Tensor, "h w"]]:
        """The true class, by the data's numbers, and the best one of each pixel."""
        if batch.raw is None or batch.frame is None:
            truth = require(batch.segmentation)[row]
            rows, columns = truth.shape
            frame, extent = torch.tensor([0.0, 0.0, columns, rows]), torch.ones(2)
        else:
            truth, frame = torch.from_numpy(read_class_map(batch.raw[row]).astype(np.int64)), batch.frame[row]
        size = (truth.shape[0], truth.shape[1])
        return truth, read_at_photo(logits, frame=frame, photo_size=size, extent=extent).argmax(0)

    def _keep(self, batch: Batch, row: int, truth: Tensor, predicted: Tensor) -> None:
        sample = require(batch.raw)[row]
        if self._results is not None:
            write_label_map(self._results.path(sample.image), predicted, require(self._values))
        if len(self._examples) < self.pictures:
            maps = {"truth": truth.to(torch.uint8).cpu().numpy(), "predicted": predicted.to(torch.uint8).cpu().numpy()}
            self._examples.append({"image": str(sample.image), "as_stored": sample.as_stored, **maps})

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """miou, miou_present and pixel_accuracy in percent, see `mean_iou`; and iou_<name> of each class, where there are at most
        30."""
        confusion = self._confusion
        if confusion is None:
            confusion = torch.zeros(
                len(self._names), len(self._names), dtype=torch.int64, device=next(model.parameters()).device
            )
        confusion = distributed.sum_over_ranks(confusion).cpu()
        figures = mean_iou(confusion)
        if len(self._names) <= 30:
            ious = [None if iou != iou else 100 * iou for iou in class_ious(confusion).tolist()]
            figures |= figures_by_class("iou", self._names, ious)
        self._figures = {"label_maps": {"names": self._names, "examples": self._examples}} if self._examples else {}
        return figures

    # --------------------------------------------------------------------------------------------------- prediction

    def lacking(self, data: Any) -> str | None:
        return None  # its own classes, or those that are given

    @torch.no_grad()
    def segment(
        self, model: VisionLanguageModel, image: Image, frame: Float[Tensor, "b 4"], sizes: Sequence[tuple[int, int]]
    ) -> list[Int[Tensor, "_ _"]]:
        """For each image the class of each pixel of its photo.  frame: see `Batch`.  sizes: height and width of the photos."""
        logits = self.logits(model, image)
        maps = zip(logits, frame, image_extent(image, logits), sizes, strict=True)
        return [read_at_photo(x, frame=f, photo_size=size, extent=e).argmax(0) for x, f, e, size in maps]

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """classes: the share of the image's pixels that each class has, largest first, from 0 to 1."""
        image = require(batch.image)
        logits = self.logits(model, image)
        logits = F.interpolate(logits, image.pixels.shape[-2:], mode="bilinear", align_corners=False)
        records: list[dict[str, object]] = []
        for row, sample in enumerate(batch.sample.tolist()):
            best = logits[row].argmax(0)
            if image.size is not None:
                best = best[: int(image.size[row, 0]), : int(image.size[row, 1])]
            shares = torch.bincount(best.flatten(), minlength=len(self._names)) / best.numel()
            order = shares.argsort(descending=True)
            found = [(self._names[index], float(shares[index])) for index in order.tolist() if shares[index] > 0]
            records.append({"sample": sample, "classes": found})
        return records
