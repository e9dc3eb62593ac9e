"""Boxes, and masks, of named things: each place of the vision tower's raster proposes one box, and class vectors (closed
vocabulary) or embeddings of texts (open) score it. Trained by one-to-one matching, measured by COCO's figures.

Design: Minderer et al., OWL-ViT, arXiv:2205.06230; loss and matching: Zhu et al., arXiv:2010.04159, without queries or a
decoder. No suppression of neighbours: places were matched to things one to one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlp import distributed
from vlp.data.images import open_photo
from vlp.metrics.coco import encode_mask, read_ground_truth, require_evaluator
from vlp.metrics.coco_measurement import CocoMeasurement, DetectedImage
from vlp.models.dense.detection_loss import Targets, detection_loss
from vlp.models.dense.detector import Detector, Proposals
from vlp.models.dense.matching import require_solver
from vlp.models.dense.on_photo import FoundThings, find_things
from vlp.models.dense.places import image_extent, places_on_image
from vlp.models.dense.targets import class_positions, class_targets, phrase_targets, select_classes
from vlp.models.dense.vocabulary import Vocabulary, draw_classes, prompt_templates
from vlp.models.equal_inputs import content_keys, first_equal_positions
from vlp.models.features import flatten_captions
from vlp.models.precision import to_float32
from vlp.models.vlm import VisionLanguageModel
from vlp.random import mix
from vlp.structures import Batch, Features, Image, Loss, Sample, Text, Tokens, require, require_finite
from vlp.system.errors import UserError
from vlp.tasks.base import Task, write_results

LOSSES = {"class": 2.0, "l1": 5.0, "giou": 2.0, "objectness": 1.0, "mask": 5.0, "dice": 2.0}
NAMES, QUERIES = ("classes", "texts"), ("names", "phrases")


class Detection(Task):
    """head: widths and number of classes → the detector, see `vlp.models.dense.detector.PlaceDetector`.
    names: what scores a box: "classes", a vector of each class, or "texts", embeddings of the names.
    queries: of texts in training: "names", or "phrases": the captions that boxes belong to.
    class_names: those of class vectors, and that training asks for; evaluation by texts asks for the data's own.
    texts: what is asked for in evaluation instead of some names.  templates: prompts with {} for the name.
    negatives: classes of a training step beside those of its things; None = all.
    novel_classes: of which training sees no box; or a letter: those that LVIS's file marks so.  base_classes: the others that
    figures are of; None = all others.  lvis_style: see `vlp.metrics.coco.evaluate`.
    states_width, embed_width, levels, level_widths: of the model; `levels` are the inner maps that the head reads.
    losses: weights of the terms, where they differ from `LOSSES`.
    detections: of an image, at most.  threshold: probability above which `predict` names a thing.  nms: see `find_things`.
    results_file: official JSON; that of masks has _masks before its ending.  pictures: how many images `figures` holds.
    """

    requires: tuple[str, ...] = ("image", "boxes")
    uses = ("image",)
    changeable = ("templates",)
    stored = ("head", "names", "class_names", "states_width", "embed_width", "levels", "level_widths", "templates")

    def __init__(
        self, *, head: Callable[..., Detector], states_width: int, class_names: Sequence[str], names: str = "classes",
        queries: str = "names", embed_width: int = 0, levels: Sequence[str] = (), level_widths: Sequence[int] = (),
        texts: Mapping[str, str] | None = None, templates: Sequence[str] | None = None, negatives: int | None = None,
        base_classes: Sequence[str] | None = None, novel_classes: Sequence[str] | str = (), lvis_style: bool = False,
        losses: Mapping[str, float] | None = None, detections: int = 100, threshold: float = 0.3, nms: float | None = None,
        results_file: str | Path | None = None, pictures: int = 8, weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(weight=weight, sources=sources)
        if names not in NAMES or queries not in QUERIES or (names == "classes" and queries == "phrases"):
            raise UserError(
                f"detection with names={names}, queries={queries}: names are classes or texts, queries names or (of texts) phrases"
            )
        if unknown := (losses or {}).keys() - LOSSES.keys():
            raise UserError(f"detection has no losses {', '.join(sorted(unknown))}: choose from {', '.join(LOSSES)}")
        self.names, self.queries, self.class_names = names, queries, tuple(class_names)
        self.levels, self.templates = tuple(levels), prompt_templates(templates)  # type: ignore[misc]
        self.needs = ("vision", "text", "projection") if names == "texts" else ("vision",)  # type: ignore[misc]
        self.requires = (*Detection.requires, "caption") if queries == "phrases" else Detection.requires  # type: ignore[misc,assignment]
        self.texts, self.negatives = dict(texts or {}), negatives
        self.base_classes, self.novel_classes, self.lvis_style = base_classes, novel_classes, lvis_style
        self.losses = LOSSES | dict(losses or {})
        if nms is not None and not 0 <= nms <= 1:
            raise UserError(f"nms={nms} of a detection: give an IoU from 0 to 1, or null to leave nothing out")
        self.detections, self.threshold, self.nms, self.pictures = detections, threshold, nms, pictures
        self.results_file = None if results_file is None else Path(results_file)
        self.detector = head(
            states_width=states_width, classes=len(self.class_names) if names == "classes" else None,
            embed_width=embed_width, levels=self.levels, level_widths=level_widths,
        )  # fmt: skip
        self._position: Tensor | None = None  # of the training data's classes among the head's, -1 = no boxes of it
        self._asked: Vocabulary | None = None  # in training
        self._names: tuple[str, ...] = ()  # of the columns in evaluation
        self._ids = np.zeros(0, dtype=np.int64)  # official ones of these names, -1 where the data have no such class
        self._vocabulary: Vocabulary | None = None
        self._truth: dict[str, Any] | None = None  # the official file's content
        self._sizes: dict[int, tuple[int, int]] = {}  # height and width of each photo in it
        self.reset()

    # -------------------------------------------------------------------------------------------------- preparation

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        if self.weight:
            require_solver()
        if self.weight or hasattr(data, "ground_truth"):  # single inputs have none
            require_evaluator()
        names = tuple(getattr(data, "class_names", None) or ())
        if self._position is None:  # the first time is that of the training data
            novel = self._novel(data, "train") if names and self.weight else set()
            seen = [name for name in self.class_names if name not in novel]
            self._position = class_positions(names or self.class_names, self.class_names)
            self._position[[name not in seen for name in names or self.class_names]] = -1
            self._seen = class_positions(seen, self.class_names)
            if self.names == "texts" and self.queries == "names" and self.class_names:  # a folder of OWL-ViT has none
                self._asked = Vocabulary(self.class_names, tokenizer=tokenizer, templates=self.templates)
        self._data = data
        self._names = self.class_names if self.names == "classes" or not names else names
        if missing := [name for name in names if name not in self._names]:
            raise UserError(
                f"detection has no class {missing[0]}, which {data.name} has: its classes are those it was trained on"
            )
        id_of = dict(zip(names, getattr(data, "category_ids", None) or (), strict=False))
        self._ids = np.array([id_of.get(name, -1) for name in self._names], dtype=np.int64)
        self._vocabulary = None
        if self.names == "texts":
            asked = [self.texts.get(name, name) for name in self._names]
            if getattr(data, "category_ids", None) and (unknown := self.texts.keys() - set(self._names)):
                raise UserError(f"texts: {data.name} has no class {min(unknown)}")
            self._vocabulary = Vocabulary(asked, tokenizer=tokenizer, templates=self.templates)
        self._truth, self._sizes = None, {}

    def _novel(self, data: Any, split: str) -> set[str]:
        """Names of the classes without boxes in training."""
        if not isinstance(self.novel_classes, str):
            return set(self.novel_classes)
        categories = read_ground_truth(data.ground_truth(split))["categories"]
        name_of = dict(zip(data.category_ids, data.class_names, strict=True))  # the file may write them otherwise
        marked = (category["id"] for category in categories if category.get("frequency") == self.novel_classes)
        return {name_of[number] for number in marked if number in name_of}

    # ----------------------------------------------------------------------------------------------------- training

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        tokens, image = require(features.image), require(batch.image)
        extent = image_extent(image, to_float32(tokens.states))
        targets, queries = self._targets(model, batch, features, extent)
        proposals = self.detector(tokens, queries)
        allowed = None if image.size is None else places_on_image(proposals.grid, extent)
        value, logs = detection_loss(proposals, targets, self.losses, allowed=allowed)
        return Loss(value=value, logs=logs)

    def _targets(
        self, model: VisionLanguageModel, batch: Batch, features: Features, extent: Tensor
    ) -> tuple[Targets, Tensor | None]:
        boxes, image = require(batch.boxes), require(batch.image)
        if self.queries == "phrases":
            text, owner = flatten_captions(batch)
            # another objective may have asked for the captions' embeddings
            embed = _embed_once(model, text) if features.text_embed is None else features.text_embed
            return phrase_targets(
                boxes, extent, text=text, owner=owner, embed=embed, ids=batch.id,
                also_true=_also_true(batch),
            )  # fmt: skip
        if self._position is None:
            raise UserError("detection was not prepared: call `prepare` with the training data first")
        size = (image.pixels.shape[-2], image.pixels.shape[-1])
        targets = class_targets(boxes, extent, position=self._position, classes=len(self.class_names), image_size=size)
        if self._asked is None:
            return targets, None
        present = sum(
            (rows.sum(0) for rows in targets.positive), torch.zeros(len(self.class_names), device=extent.device)
        )
        chosen = draw_classes(
            distributed.sum_over_ranks(present), self._seen, self.negatives, seed=mix(features.step)
        ).to(extent.device)
        return select_classes(targets, chosen), self._asked.embed(model, chosen)

    # --------------------------------------------------------------------------------------------------- evaluation

    def reset(self) -> None:
        self._measured = CocoMeasurement()
        self._examples: list[dict[str, Any]] = []

    @torch.no_grad()
    def propose(self, model: VisionLanguageModel, tokens: Tokens) -> Proposals:
        """Of the classes that were prepared, in float32."""
        with torch.autocast(tokens.states.device.type, enabled=False):
            queries = None if self._vocabulary is None else self._vocabulary.embed(model)
            proposals: Proposals = self.detector(tokens.map(to_float32), queries)
        require_finite(proposals.logits, "scores of boxes")
        require_finite(proposals.boxes, "boxes")
        return proposals

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if batch.frame is None:
            raise UserError(
                "detection is measured in pixels of the photos, and these batches do not say what they show"
            )
        self._read_truth()
        known = None if (self._ids >= 0).all() else np.flatnonzero(self._ids >= 0).tolist()
        proposals = self.propose(model, require(features.image))
        sizes = None if proposals.pixels is None else [self._sizes[image] for image in batch.id.tolist()]
        found = find_things(
            proposals,
            require(batch.image),
            batch.frame,
            count=self.detections,
            photo_sizes=sizes,
            classes=known,
            nms=self.nms,
        )
        for row, (image, things) in enumerate(zip(batch.id.tolist(), found, strict=True)):
            codes = None if things.masks is None else [encode_mask(mask) for mask in things.masks]
            self._measured.images.append(
                DetectedImage(
                    id=image,
                    boxes=things.boxes,
                    scores=things.scores,
                    category_ids=self._ids[things.label],
                    codes=codes,
                )
            )
            if batch.raw is not None and len(self._examples) < self.pictures:
                self._examples.append(self._example(image, batch.raw[row], things))

    def _example(self, image: int, sample: Sample, things: FoundThings) -> dict[str, Any]:
        """For a picture: what is probable, and what is there."""
        names = {number: name for number, name in zip(self._ids.tolist(), self._names, strict=True) if number >= 0}
        rows = [
            row for row in self._read_truth()["annotations"] if row["image_id"] == image and row["category_id"] in names
        ]
        truth = [
            {"box": [left, top, left + width, top + height], "label": names[row["category_id"]]}
            for row in rows
            for left, top, width, height in [row["bbox"]]
        ]
        found = [_encoded(thing) for thing in self.describe(things) if thing["score"] >= self.threshold]
        own = {"image": str(sample.image), "as_stored": sample.as_stored}
        return {**own, "things": found, "truth": truth, "names": list(self._names)}

    def _read_truth(self) -> dict[str, Any]:
        if self._truth is None:
            self._truth = read_ground_truth(self._data.ground_truth(self.split))
            self._sizes = {image["id"]: (image["height"], image["width"]) for image in self._truth["images"]}
        return self._truth

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """In percent: `ap`, `ap50`, … `ar_large`, of masks with `mask_` before them, and `ap_base`, `ap_novel`; see
        `vlp.metrics.coco.evaluate`."""
        id_of = {name: number for name, number in zip(self._names, self._ids.tolist(), strict=True) if number >= 0}
        subsets: dict[str, list[int]] = {}
        if self.novel_classes:
            novel = self._novel(self._data, self.split) & id_of.keys()
            base = set(id_of) - novel if self.base_classes is None else set(self.base_classes) & id_of.keys()
            subsets = {"base": [id_of[name] for name in base], "novel": [id_of[name] for name in novel]}
        counted = [*subsets["base"], *subsets["novel"]] if subsets else list(id_of.values())
        figures, results = self._measured.figures(
            self._read_truth(), category_ids=counted, lvis_style=self.lvis_style, subsets=subsets
        )
        write_results(self.results_file, results["bbox"])
        if self.results_file is not None and "segm" in results:
            write_results(self.results_file.with_stem(f"{self.results_file.stem}_masks"), results["segm"])
        self._figures = {"detections": self._examples} if self._examples else {}
        return figures

    # --------------------------------------------------------------------------------------------------- prediction

    def lacking(self, data: Any) -> str | None:
        if self.names == "classes" and data.class_names:
            return "no --label: its classes are those it was trained on"
        return None

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """`things`: box, label, score and, of a detector with masks, mask (COCO's run-length code), in pixels of the photo."""
        if batch.frame is None:
            raise UserError("boxes in pixels of the photo need a transform of vlp.data.transforms")
        sizes = None
        if self.detector.pixels is not None:
            sizes = [open_photo(sample.image).size[::-1] for sample in require(batch.raw)]
        tokens = model.encode_image(require(batch.image), levels=self.levels)
        found = self.find(model, tokens, require(batch.image), batch.frame, photo_sizes=sizes)
        return [
            {"sample": sample, "things": [_encoded(thing) for thing in self.describe(things)]}
            for sample, things in zip(batch.sample.tolist(), found, strict=True)
        ]

    def find(
        self, model: VisionLanguageModel, tokens: Tokens, image: Image, frame: Tensor, **options: Any
    ) -> list[FoundThings]:
        """In each photo what is more probable than `threshold`.  options: see `find_things`."""
        options = {"count": self.detections, "threshold": self.threshold, "nms": self.nms} | options
        return find_things(self.propose(model, tokens), image, frame, **options)

    def describe(self, things: FoundThings) -> list[dict[str, Any]]:
        """Of each thing box, label, score and, of a detector with masks, mask [height width]."""
        rows = zip(things.boxes.tolist(), things.label.tolist(), things.scores.tolist(), strict=True)
        named = [{"box": box, "label": self._names[label], "score": score} for box, label, score in rows]
        if things.masks is None:
            return named
        return [one | {"mask": mask} for one, mask in zip(named, things.masks, strict=True)]


def _encoded(thing: dict[str, Any]) -> dict[str, Any]:
    """With COCO's run-length code of its mask."""
    return thing | {"mask": encode_mask(thing["mask"])} if "mask" in thing else thing


def _embed_once(model: VisionLanguageModel, text: Text) -> Float[Tensor, "r e"]:
    """The embedding of each row; rows that are equal, as most phrases of a batch are, go through the text tower once."""
    first = first_equal_positions(content_keys(text)).to(text.ids.device)
    kept, position = first.unique(return_inverse=True)
    embed: Tensor = model.embed_text(model.encode_text(text.select(kept)))
    return embed[position]


def _also_true(batch: Batch) -> list[list[int]]:
    """Of each real caption, ids of other images that it describes."""
    if batch.also_true is None:
        return []
    real = require(batch.caption).mask.any(-1)
    rows = batch.also_true[real] if real.ndim == 2 else batch.also_true[:, 0]
    return [[image for image in row if image >= 0] for row in rows.tolist()]
