"""Grounding (referring expressions, phrases): which thing of the image does a phrase name? Three ways to a box:

box       the box head over the fused pooled state of phrase and image, trained with boxes (X-VLM; vlp/models/dense/phrase_box.py)
map       without boxes: the heat of a score of phrase and image on the image's cells (vlp/explanations/states.py), summed over
          candidate boxes (ALBEF's rule, vlp/explanations/boxes.py); beside it a map of random numbers, and the map of another
          phrase of the same image that names another thing
detector  the open-vocabulary detection head with the phrase as its query

Figures are in percent and in the photo's own pixels, see vlp/metrics/grounding.py; `phrases` counts them. A phrase counts once for
each image that it stands in; phrases without a box are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlp import distributed
from vlp.data.phrase_boxes import Candidates, boxes_to_choose_from, named_boxes, named_mask, read_candidates
from vlp.distributed import mean_over_ranks
from vlp.explanations.boxes import box_around_peak, enlarge, heat_in_boxes
from vlp.explanations.states import heat_of_states
from vlp.metrics.grounding import RANKS, THRESHOLD, mask_overlap, paired_iou, phrase_figures
from vlp.models.dense.boxes import to_corners, to_image, to_photo
from vlp.models.dense.phrase_box import Grounded, PhraseBoxHead, boxes_of_texts, phrase_box_losses
from vlp.models.dense.phrase_detection import detect_phrases
from vlp.models.dense.places import image_extent
from vlp.models.features import flatten_captions, image_memory_per_text
from vlp.models.precision import apply_head
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import position_within_image
from vlp.random import mix_rows, uniform
from vlp.structures import Batch, Features, Heat, Loss, Text, Tokens, require, require_finite
from vlp.system.errors import UserError
from vlp.tasks.base import Task, write_results

MODES = ("box", "map", "detector")


class Grounding(Task):
    """mode: see above.  width: of the fusion's pooled state, for the box head; with one, the head exists in every mode, so that a
    trained checkpoint can also be measured by its map.
    score: the objective whose score is explained (map).  candidates: a file of boxes to choose from (vlp/data/phrase_boxes.py), or
    "ground_truth": the true boxes of the split's things; None = the boxes of the image's phrases.
    power: of the area that a candidate's heat is divided by.
    mask_threshold: share of the largest heat that a pixel needs to be in the phrase's mask (map).
    detector: the task whose head answers (detector).
    l1, giou: weights of the two parts of the loss (X-VLM: 1 and 1).  results_file: where the boxes of all phrases are written.
    pictures: how many phrases `figures` has.
    """

    requires = ("image", "caption", "boxes")
    stored = ("width",)
    line_per_caption = True

    def __init__(
        self,
        *,
        mode: str = "map",
        width: int | None = None,
        score: str = "itm",
        candidates: str | Path | None = None,
        power: float = 0.5,
        mask_threshold: float = 0.5,
        detector: str = "detection",
        l1: float = 1.0,
        giou: float = 1.0,
        results_file: str | Path | None = None,
        pictures: int = 8,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if mode not in MODES:
            raise UserError(f"tasks.grounding.mode={mode}: choose {', '.join(MODES[:-1])} or {MODES[-1]}")
        if mode == "box" and width is None:
            raise UserError("tasks.grounding.mode=box needs tasks.grounding.width, the width of the fusion's states")
        if self.weight and mode != "box":
            raise UserError(f"tasks.grounding.mode={mode} has no loss: set tasks.grounding.weight=0, or mode=box")
        self.mode, self.explained, self.detector = mode, score, detector
        self.power, self.mask_threshold, self.l1, self.giou = power, mask_threshold, l1, giou
        self.candidates = candidates
        self.results_file = None if results_file is None else Path(results_file)
        self.pictures = pictures
        self.needs = {
            "box": ("vision", "text", "fusion"), "map": ("vision", "text"), "detector": ("vision", "text", "projection"),
        }[mode]  # fmt: skip
        self.uses: tuple[str, ...] = ("image", "text", "memory") if mode == "box" else ("image",)
        self.heads: tuple[str, ...] = {"box": (), "map": (score,), "detector": (detector,)}[mode]
        self.predict_heads = self.heads
        self.head = None if width is None else PhraseBoxHead(width=width)
        self._candidates: Candidates | None = None

    @property
    def levels(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.linked[self.detector].levels) if self.detector in self.linked else ()

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        if self.candidates is not None:
            own = self.candidates == "ground_truth"
            self._candidates = read_candidates(data.ground_truth(self.split) if own else Path(self.candidates))

    # --------------------------------------------------------------------------------------------------------- training

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        """The mean over the phrases with boxes of all ranks."""
        owner = torch.arange(len(batch), device=batch.id.device) if features.owner is None else features.owner
        found = self._fused_boxes(model, require(features.text), batch, features, owner)
        rows, corners = boxes_of_texts(require(batch.boxes), owner)
        l1, giou = phrase_box_losses(found[rows], corners)
        hits = paired_iou(to_corners(found.detach()[rows]), corners.to(found.dtype)) >= THRESHOLD
        sums = {"l1": l1.detach(), "giou": giou.detach(), "accuracy": 100 * hits.to(l1.dtype).sum()}
        logs = {name: mean_over_ranks(value, len(rows)) for name, value in sums.items()}
        return Loss(value=mean_over_ranks(self.l1 * l1 + self.giou * giou, len(rows)), logs=logs)

    def _fused_boxes(
        self, model: VisionLanguageModel, text: Tokens, batch: Batch, features: Features, owner: Int[Tensor, " r"]
    ) -> Float[Tensor, "r 4"]:
        assert self.head is not None
        assert features.memory is not None
        fused = model.fuse(text, image_memory_per_text(features.memory, batch, owner))
        return apply_head(self.head, fused.pooled)

    # ------------------------------------------------------------------------------------------------------ measurement

    def reset(self) -> None:
        self._figures = {}
        self._rows: list[dict[str, float]] = []  # of each phrase
        self._controls: dict[str, list[float]] = {"random_accuracy": [], "other_phrase_accuracy": []}
        self._masks: list[Tensor] = []  # pixels in both and in either, of each phrase with a mask
        self._results: list[dict[str, object]] = []
        self._examples: list[dict[str, object]] = []
        self._left_out = 0

    def left_out(self) -> int:
        """Samples none of whose phrases has a box."""
        return self._left_out

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        text, owner = flatten_captions(batch)
        heat = self._heat(model, require(features.image), text, owner) if self.mode == "map" else None
        found = self.ground(model, batch, features, heat=heat)
        position = position_within_image(owner)
        gold = [named_boxes(batch, int(image), int(place)) for image, place in zip(owner, position, strict=True)]
        for row, (image, place) in enumerate(zip(owner.tolist(), position.tolist(), strict=True)):
            if not len(gold[row]):
                continue
            self._rows.append(phrase_figures(found[row].boxes[: max(RANKS)], gold[row]))
            self._record(batch, image, place, found[row], gold[row])
            if heat is not None:
                self._control(batch, heat, image, row, owner, gold)
        present = {image for image, boxes in zip(owner.tolist(), gold, strict=True) if len(boxes)}
        self._left_out += len(batch) - len(present)
        if heat is not None:
            self._measure_masks(batch, heat, owner, position)

    def ground(
        self, model: VisionLanguageModel, batch: Batch, features: Features, *, heat: Heat | None = None
    ) -> list[Grounded]:
        """Of each real caption of the batch, which needs `frame`.  heat: theirs, if it is known (map)."""
        text, owner = flatten_captions(batch)
        frame = require(batch.frame).double()
        if self.mode == "box":
            tokens = model.encode_text(text) if features.text is None else features.text
            corners = to_corners(self._fused_boxes(model, tokens, batch, features, owner).double())
            corners = require_finite(corners, "boxes")
            return [Grounded(boxes=to_photo(box[None], frame[i])) for box, i in zip(corners, owner, strict=True)]
        if self.mode == "detector":
            detector, image = self.linked[self.detector].detector, require(batch.image)
            corners, scores = detect_phrases(
                model, detector, image, require(features.image), text, owner, count=max(RANKS)
            )
            rows = zip(corners, scores, owner, strict=True)
            return [Grounded(boxes=to_photo(boxes, frame[i]), scores=score) for boxes, score, i in rows]
        heat = self._heat(model, require(features.image), text, owner) if heat is None else heat
        return [
            self._best_candidates(batch, values, image)
            for values, image in zip(heat.values, owner.tolist(), strict=True)
        ]

    def _heat(self, model: VisionLanguageModel, image: Tokens, text: Text, owner: Int[Tensor, " r"]) -> Heat:
        heat = heat_of_states(self.linked[self.explained].score, model, image.select(owner), text)
        return Heat(values=require_finite(heat.values, "maps of phrases"))

    def _best_candidates(self, batch: Batch, values: Float[Tensor, "rows columns"], image: int) -> Grounded:
        """By the share of the heat in them; without any, the region around the maximum of the heat."""
        frame, pixels = require(batch.frame)[image].double(), require(batch.image)
        candidates = boxes_to_choose_from(batch, image, self._candidates)
        extent = image_extent(pixels, frame)[image].repeat(2)
        if not len(candidates):
            region = (box_around_peak(values.double()) / extent).clamp(max=1)
            return Grounded(boxes=to_photo(region[None], frame), heat=values)
        height, width = pixels.pixels.shape[-2:]
        heat = enlarge(values[None], (height, width))[0]
        scores = heat_in_boxes(heat, to_image(candidates, frame) * extent, power=self.power)
        order = scores.argsort(descending=True, stable=True)
        return Grounded(boxes=candidates[order], scores=scores[order], heat=values)

    def _control(
        self, batch: Batch, heat: Heat, image: int, row: int, owner: Int[Tensor, " r"], gold: list[Tensor]
    ) -> None:
        """A map of random numbers, and that of the next phrase of the image (in a circle) that names nothing that this one does."""
        own = (owner == image).nonzero()[:, 0].tolist()
        place = own.index(row)
        seed = mix_rows(batch.id[image : image + 1], torch.tensor([place], device=batch.id.device))
        noise = uniform(seed, heat.values[row].numel()).view_as(heat.values[row])
        others = [
            other for other in own[place + 1 :] + own[:place]
            if len(gold[other]) and not bool((gold[other][:, None] == gold[row][None]).all(-1).any())
        ]  # fmt: skip
        maps = {"random_accuracy": noise}
        if others:
            maps["other_phrase_accuracy"] = heat.values[others[0]]
        for name, values in maps.items():
            box = self._best_candidates(batch, values, image).boxes[:1]
            self._controls[name].append(phrase_figures(box, gold[row])["accuracy"])

    def _measure_masks(self, batch: Batch, heat: Heat, owner: Int[Tensor, " r"], position: Int[Tensor, " r"]) -> None:
        """Pixels of at least `mask_threshold` times the largest heat against the masks of what a phrase names, on the image."""
        size: Any = tuple(require(batch.image).pixels.shape[-2:])
        for row, (image, place) in enumerate(zip(owner.tolist(), position.tolist(), strict=True)):
            mask = named_mask(require(batch.boxes)[image], place)
            if mask is None:
                continue
            pixels = enlarge(heat.values[row : row + 1], size)[0][: mask.shape[0], : mask.shape[1]]
            found = (pixels >= self.mask_threshold * pixels.max()) & (pixels > 0)
            self._masks.append(torch.stack(mask_overlap(found, mask)))

    def _record(self, batch: Batch, image: int, place: int, found: Grounded, gold: Float[Tensor, "g 4"]) -> None:
        sample = require(batch.raw)[image]
        record = {"image_id": sample.id, "phrase": sample.captions[place], "box": found.boxes[0].tolist()}
        if self.results_file is not None:
            self._results.append(record)
        if len(self._examples) < self.pictures:
            correct = bool(self._rows[-1]["any_r1"] or self._rows[-1]["merged_r1"])
            self._examples.append(
                {
                    **record,
                    "image": str(sample.image),
                    "as_stored": sample.as_stored,
                    "gold": gold.tolist(),
                    "correct": correct,
                }
            )

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """`accuracy`, `accuracy_pixel`, `mean_iou`, `merged_r1`, `any_r1` (where the mode ranks boxes also 5 and 10), with masks
        `oiou` and `miou`; of maps also `random_accuracy` and `other_phrase_accuracy`. All in percent."""
        names = [
            "accuracy",
            "accuracy_pixel",
            "mean_iou",
            *(f"{kind}_r{k}" for kind in ("merged", "any") for k in self._ranks()),
        ]
        sums = [sum(row[name] for row in self._rows) for name in names]
        controls = {name: values for name, values in self._controls.items() if self.mode == "map"}
        sums += [value for values in controls.values() for value in (sum(values), len(values))]
        masks = torch.stack(self._masks).double() if self._masks else torch.zeros(0, 2)
        overlap = [*masks.sum(0).tolist(), float((masks[:, 0] / masks[:, 1].clamp(min=1)).sum()), len(masks)]
        device = next(model.parameters()).device
        values = torch.tensor([*sums, *overlap, len(self._rows)], dtype=torch.float64, device=device)
        *total, both, either, ratios, masked, phrases = distributed.sum_over_ranks(values).tolist()
        if not phrases:
            raise UserError("grounding: no phrase has a box; set data.boxes=true, or leave the task out of task=[…]")
        figures: dict[str, float | None] = {
            name: 100 * value / phrases for name, value in zip(names, total, strict=False)
        }
        pairs = zip(total[len(names) :: 2], total[len(names) + 1 :: 2], strict=True)
        figures |= {
            name: 100 * hits / count if count else None for name, (hits, count) in zip(controls, pairs, strict=True)
        }
        if masked:
            figures |= {"oiou": 100 * both / max(either, 1), "miou": 100 * ratios / masked}
        if self.results_file is not None:
            write_results(self.results_file, distributed.gather_lists(self._results))
        self._figures = {"grounded": self._examples} if self._examples else {}
        return figures | {"phrases": phrases}

    def _ranks(self) -> tuple[int, ...]:
        return (1,) if self.mode == "box" else RANKS

    # ------------------------------------------------------------------------------------------------------- prediction

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """`boxes`: for each caption of an image the best one, in pixels of the photo; `scores`: theirs, where the mode has any."""
        image = model.encode_image(require(batch.image), levels=self.levels)
        memory = model.project_memory(image) if self.mode == "box" else None
        found = self.ground(model, batch, Features(image=image, memory=memory))
        _, owner = flatten_captions(batch)
        records: list[dict[str, Any]] = [{"sample": sample, "boxes": []} for sample in batch.sample.tolist()]
        for grounded, row in zip(found, owner.tolist(), strict=True):
            records[row]["boxes"].append(grounded.boxes[0].tolist())
            if grounded.scores is not None:
                records[row].setdefault("scores", []).append(float(grounded.scores[0]))
        return records
