"""The sections of a manifest: what the runtime must know of a checkpoint beside its graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlp.deploy.export.plan import Plan
from vlp.deploy.runtime.manifest import (
    AnswersSection,
    CaptioningSection,
    ClassifierSection,
    DecoderSection,
    DetectionSection,
    PlacesSection,
    SegmentationSection,
)
from vlp.models.decoder.coca import CocaDecoder
from vlp.models.fusion.cross import CrossFusion
from vlp.models.fusion.grounded import GroundedFusion
from vlp.models.fusion.single_stream import SingleStreamFusion
from vlp.structures import Image
from vlp.tasks import captioning

FAMILIES = {CrossFusion: "albef", GroundedFusion: "blip", SingleStreamFusion: "vilt"}


def describe(predictor: Any, plan: Plan, pixels: Tensor | None) -> dict[str, Any]:
    """Fields of `Manifest`.  pixels: of an image, at the size of the graphs."""
    model, heads, graphs = predictor.model, predictor.objectives, plan.graphs
    found: dict[str, Any] = {"family": family(model)}
    if model.projection is not None and {"image", "text", "image_places"} & graphs.keys():
        bias = getattr(model.projection, "logit_bias", None)
        found |= {
            "width": int(model.projection.width),
            "logit_scale": float(model.projection.scale()),
            "logit_bias": None if bias is None else float(bias),
        }
    if reads_texts(plan):
        found["tokenizer"] = predictor.require_tokenizer().rules
    if "classifier" in graphs:
        found["classifier"] = ClassifierSection(
            task=str(plan.classifier), names=tuple(heads[plan.classifier].class_names)
        )
    if {"answer", "answer_prefill"} & graphs.keys():
        task = heads["vqa"]
        found["answers"] = AnswersSection(
            kind=task.kind, names=tuple(task.answers), candidates=task.candidates, beams=task.beams,
            first_token_twice=task.first_token_twice, label_smoothing=task.label_smoothing, max_length=task.max_length,
        )  # fmt: skip
    if {"prefill", "answer_prefill"} & graphs.keys():
        found["decoder"] = DecoderSection()
    if "prefill" in graphs:
        task = captioning_task(heads)
        found["captioning"] = CaptioningSection(
            prompt=task.prompt, beams=task.beams, max_length=task.max_length, min_length=task.min_length,
            repetition_penalty=task.repetition_penalty, length_penalty=task.length_penalty,
        )  # fmt: skip
    if "image_places" in graphs and pixels is not None:
        with torch.no_grad():
            found["places"] = PlacesSection(grid=model.encode_image(Image(pixels=pixels[:1])).grid)
    if "detect" in graphs:
        task = heads["detection"]
        found["detection"] = DetectionSection(
            names=task.names, class_names=task.class_names, templates=tuple(task.templates), detections=task.detections,
            threshold=task.threshold, nms=task.nms,
        )  # fmt: skip
    if "segment" in graphs:
        task = heads["segmentation"]
        found["segmentation"] = SegmentationSection(
            names="texts" if task.texts else "classes", class_names=task.segment_names,
            templates=tuple(task.templates), window=task.window, stride=task.stride,
        )  # fmt: skip
    return found


def reads_texts(plan: Plan) -> bool:
    return any({"ids", "question_ids"} & set(graph.inputs) for graph in plan.graphs.values())


def captioning_task(heads: Any) -> Any:
    return heads["captioning"] if "captioning" in heads else captioning.Captioning()


def family(model: Any) -> str:
    """A word for people."""
    if isinstance(model.decoder, CocaDecoder):
        return "coca"
    if model.fusion is None:
        return "clip" if model.projection is not None and model.text is not None else "vision"
    return FAMILIES.get(type(model.fusion), type(model.fusion).__name__.lower())
