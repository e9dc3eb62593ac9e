"""Panoptic segmentation: every pixel belongs to a thing, each counted by itself, or to stuff; by learned queries behind any tower.

Trained by Mask2Former's loss on every block of the head, measured by panoptic quality with crowds at the photo's own size
(Kirillov et al., arXiv:1801.00868).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlp import distributed
from vlp.data.pixel_labels import read_segment_ids
from vlp.data.view import VOID_CLASS
from vlp.metrics.panoptic_quality import count_matches, panoptic_quality
from vlp.models.dense.class_tables import class_table
from vlp.models.dense.label_files import ResultFolder
from vlp.models.dense.matching import require_solver
from vlp.models.dense.panoptic import panoptic_annotation, panoptic_map, write_panoptic_png, write_panoptic_results
from vlp.models.dense.places import image_extent
from vlp.models.dense.queries import QueryHead
from vlp.models.dense.query_loss import LOSSES, TrueSegments, query_loss
from vlp.models.dense.segments import QueriedSegments
from vlp.models.dense.vocabulary import Vocabulary, prompt_templates
from vlp.models.precision import apply_head, to_float32
from vlp.models.vlm import VisionLanguageModel
from vlp.random import mix
from vlp.structures import Batch, Features, Image, Loss, Segment, Segments, Tokens, require, require_finite
from vlp.system.errors import UserError
from vlp.tasks.base import Task, figures_by_class


class Panoptic(Task):
    """head: "queries", of the task's own, or "tower": the segments that the vision tower itself finds (EoMT's).
    segment_names: the classes.  names: "classes", a vector of each, or "texts", embeddings of their names, with `templates`.
    queries, width, blocks, heads, up, levels, place_queries: see `QueryHead`.  states_width, embed_width, level_widths: of the
    model.
    points: at which masks are compared in training.  no_object: weight of queries without a segment.  losses: weights of the
    terms, where they differ from `LOSSES`.  threshold, overlap: see `panoptic_map`.
    results_folder: COCO's form of results, panoptic.json and a PNG of each photo.  pictures: how many photos `figures` holds.
    """

    requires = ("image", "segments")
    uses = ("image",)
    changeable = ("templates",)
    stored = (
        "head", "segment_names", "names", "templates", "queries", "width", "blocks", "heads", "up", "states_width", "embed_width",
        "levels", "level_widths", "place_queries",
    )  # fmt: skip

    def __init__(
        self, *, segment_names: Sequence[str], states_width: int, head: str = "queries", names: str = "classes",
        templates: Sequence[str] | None = None,
        queries: int = 100, width: int = 256, blocks: int = 3, heads: int = 8, up: int = 2, levels: Sequence[str] = (),
        level_widths: Sequence[int] = (), embed_width: int = 0, place_queries: bool = False,
        points: int = 12_544, no_object: float = 0.1,
        losses: Mapping[str, float] | None = None, threshold: float = 0.8, overlap: float = 0.8,
        results_folder: str | Path | None = None, pictures: int = 8, weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(weight=weight, sources=sources)
        if names not in ("classes", "texts") or head not in ("queries", "tower") or (head, names) == ("tower", "texts"):
            raise UserError(
                f"head={head}, names={names} of a panoptic segmentation: choose queries or tower, and with queries classes or texts"
            )
        if len(segment_names) > VOID_CLASS:
            raise UserError(f"{len(segment_names)} classes of segments: at most {VOID_CLASS} are supported")
        if unknown := (losses or {}).keys() - LOSSES.keys():
            raise UserError(f"panoptic has no losses {', '.join(sorted(unknown))}: choose from {', '.join(LOSSES)}")
        self.segment_names, self.levels = tuple(segment_names), tuple(levels)  # type: ignore[misc]
        self.texts, self.templates = names == "texts", prompt_templates(templates)
        self.needs = ("vision", "text", "projection") if self.texts else ("vision",)  # type: ignore[misc]
        self.mask_points, self.no_object, self.losses = points, no_object, {**LOSSES, **(losses or {})}
        self.threshold, self.overlap, self.pictures = threshold, overlap, pictures
        self.results_folder = None if results_folder is None else Path(results_folder)
        self.uses = ("image",) if head == "queries" else ()  # type: ignore[misc,assignment]
        self.head = None
        if head == "queries":
            self.head = QueryHead(
                states_width=states_width, classes=None if self.texts else len(self.segment_names), embed_width=embed_width,
                queries=queries, width=width, blocks=blocks, heads=heads, up=up, levels=levels, level_widths=level_widths,
                place_queries=place_queries,
            )  # fmt: skip
        self._asked: Vocabulary | None = None
        self._trained_table: Tensor | None = None
        self._measured_table: Tensor | None = None
        self._things = (True,) * len(self.segment_names)
        self._ids: tuple[int, ...] | None = None  # official, of the head's classes
        self.reset()

    # -------------------------------------------------------------------------------------------------- preparation

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        if self.weight:
            require_solver()
        names = tuple(getattr(data, "segment_names", None) or self.segment_names)
        table = class_table(names, self.segment_names, task="panoptic", source=data.name)
        if self._trained_table is None:
            self._trained_table = table  # the first time is that of the training data
        self._measured_table = table
        position = [names.index(name) for name in self.segment_names]
        things, ids = (getattr(data, attribute, None) for attribute in ("segment_things", "segment_ids"))
        self._things = tuple(things[index] for index in position) if things else (True,) * len(position)
        self._ids = tuple(ids[index] for index in position) if ids else None
        if self.results_folder is not None and self._ids is None:
            raise UserError(f"results_folder: {data.name} does not say the official ids of its classes")
        if self.texts and self._asked is None:
            self._asked = Vocabulary(self.segment_names, tokenizer=tokenizer, templates=self.templates)

    def _texts(self, model: VisionLanguageModel) -> Tensor | None:
        if self.texts and self._asked is None:
            raise UserError("panoptic by texts was not prepared: call `prepare` with the data first")
        return None if self._asked is None else self._asked.embed(model)

    # ----------------------------------------------------------------------------------------------------- training

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        if self.head is None:
            found = _tower(model).query(require(batch.image))
        else:
            found = self.head(require(features.image), self._texts(model))
        true = [self._true(one) for one in require(batch.segments)]
        seeds = [mix(seed, features.step) for seed in batch.seed.tolist()]
        value, logs = query_loss(
            found, true, seeds, points=self.mask_points, no_object=self.no_object, weights=self.losses
        )  # fmt: skip
        return Loss(value=value, logs=logs)

    def _true(self, segments: Segments) -> TrueSegments:
        label, index = segments.label, segments.index
        if self._trained_table is not None:
            label = self._trained_table.to(label.device)[label]
        mask = index == torch.arange(len(label), device=index.device)[:, None, None]
        visible = mask.flatten(1).any(1)
        return TrueSegments(label=label[visible], mask=mask[visible].float())

    # --------------------------------------------------------------------------------------------------- evaluation

    def reset(self) -> None:
        self._counts = torch.zeros(len(self.segment_names), 4, dtype=torch.float64)
        self._results = None if self.results_folder is None else ResultFolder(self.results_folder / "panoptic")
        self._annotations: list[dict[str, object]] = []
        self._examples: list[dict[str, Any]] = []

    @torch.no_grad()
    def read(self, model: VisionLanguageModel, image: Image, tokens: Tokens | None = None) -> QueriedSegments:
        """The segments of the last block, in float32.  tokens: of these images, where they are known."""
        if self.head is None:
            found: QueriedSegments = _tower(model).query(image)[-1]
            found = QueriedSegments(classes=to_float32(found.classes), masks=to_float32(found.masks))
        else:
            tokens = model.encode_image(image, levels=self.levels) if tokens is None else tokens
            last = apply_head(self.head, tokens, self._texts(model))[-1]
            found = QueriedSegments(classes=last.classes, masks=last.masks)
        require_finite(found.classes, "logits of segments")
        require_finite(found.masks, "masks of segments")
        return found

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if batch.raw is None or batch.frame is None:
            raise UserError(
                "panoptic segmentation is measured on the photos' files, and these batches do not name them"
            )
        table = require(self._measured_table).tolist()
        readers = self.readers(model, require(batch.image), batch.frame, features.image)
        for sample, read in zip(batch.raw, readers, strict=True):
            truth = read_segment_ids(require(sample.panoptic))
            ids, segments = read(photo_size=(truth.shape[0], truth.shape[1]))
            true = [segment._replace(label=table[segment.label]) for segment in sample.segments]
            self._counts += count_matches(truth, true, ids, segments, len(self.segment_names))
            if self._results is not None:
                path = self._results.path(require(sample.panoptic))
                write_panoptic_png(path, ids)
                self._annotations.append(panoptic_annotation(sample.id, path.name, segments, require(self._ids)))
            if len(self._examples) < self.pictures:
                example = {"image": str(sample.image), "as_stored": sample.as_stored}
                self._examples.append({**example, "truth": truth, "true": true, "predicted": ids, "segments": segments})

    def readers(
        self, model: VisionLanguageModel, image: Image, frame: Float[Tensor, "b 4"], tokens: Tokens | None = None
    ) -> list[Callable[..., tuple[Any, list[Segment]]]]:
        """For each image `panoptic_map` of its photo, to be called with photo_size=(height, width)."""
        found = self.read(model, image, tokens)
        extent = image_extent(image, found.masks)
        options: dict[str, Any] = {"things": self._things, "threshold": self.threshold, "overlap": self.overlap}
        return [
            partial(panoptic_map, found.classes[row], found.masks[row], frame=frame[row], extent=extent[row], **options)
            for row in range(len(frame))
        ]

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """pq, sq and rq in percent, over all classes that occur, over things (pq_things, …) and over stuff; and pq_<name> of each
        class, where there are at most 30."""
        counts = self._counts.to(next(model.parameters()).device)
        quality = panoptic_quality(distributed.sum_over_ranks(counts).cpu())
        figures = dict(quality.mean())
        for kind, chosen in (("things", self._things), ("stuff", [not thing for thing in self._things])):
            figures |= {f"{name}_{kind}": value for name, value in quality.mean(list(chosen)).items()}
        if len(self.segment_names) <= 30:
            rows = zip(quality.pq.tolist(), quality.occurs.tolist(), strict=True)
            figures |= figures_by_class("pq", self.segment_names, [100 * pq if occurs else None for pq, occurs in rows])
        if self.results_folder is not None:
            annotations = distributed.gather_lists(self._annotations)
            if distributed.rank() == 0:
                write_panoptic_results(self.results_folder / "panoptic.json", annotations)
        self._figures = (
            {"panoptic": {"names": self.segment_names, "examples": self._examples}} if self._examples else {}
        )
        return figures

    # --------------------------------------------------------------------------------------------------- prediction

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """segments: class and share of the image's pixels of each, largest first, from 0 to 1."""
        image = require(batch.image)
        size = image.size if image.size is not None else torch.tensor([image.pixels.shape[-2:]] * len(batch))
        frame = torch.cat([torch.zeros(len(batch), 2), size.flip(1).cpu().float()], 1)
        records: list[dict[str, object]] = []
        for row, read in enumerate(self.readers(model, image, frame)):
            ids, segments = read(photo_size=tuple(size[row].tolist()))
            shares = [(self.segment_names[s.label], float((ids == s.id).mean())) for s in segments]
            shares.sort(key=lambda pair: -pair[1])
            records.append({"sample": int(batch.sample[row]), "segments": shares})
        return records


def _tower(model: VisionLanguageModel) -> Any:
    tower = model.part("vision")
    if not hasattr(tower, "query"):
        raise UserError(
            f"head=tower reads the segments of a tower that finds them, such as model/vision=eomt, and model.vision is "
            f"{type(tower).__name__}: choose head=queries"
        )
    return tower
