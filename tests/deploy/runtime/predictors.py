"""Small predictors of each family, with random weights, whose artifacts must answer as they do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.deploy.export.parts import bert, clip_text, decoder, vit
from vlp.data.padded_transforms import Letterbox
from vlp.data.transforms import EvalTransform, Transform
from vlp.models.dense.detector import PlaceDetector
from vlp.models.fusion.cross import CrossFusion
from vlp.models.projection.linear import LinearProjection
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.itm import ITM
from vlp.predictor import Predictor
from vlp.tasks.captioning import Captioning
from vlp.tasks.classification import Classification
from vlp.tasks.detection import Detection
from vlp.tasks.segmentation import Segmentation
from vlp.tasks.vqa import VQA
from vlp.tokenizers.trained import TrainedTokenizer

WORDS, CONTEXT = 300, 16
ANSWERS = ("yes", "no", "a red dog", "two", "blue", "yes ")  # the last is the text of the first


@functools.cache
def tokenizer() -> TrainedTokenizer:
    built = TrainedTokenizer(size=WORDS, context_length=CONTEXT)
    built.train(["a red dog", "a blue cat", "yes", "no", "what colour is the dog"] * 2)
    return built


def _projection(**options: Any) -> LinearProjection:
    return LinearProjection(image_width=16, text_width=16, width=12, **options)


def _predictor(model: VisionLanguageModel, transform: Transform | None = None, **heads: nn.Module) -> Predictor:
    for parameter in model.parameters():  # enough that different inputs have different answers
        if parameter.ndim > 1:
            parameter.data.mul_(2.0)
    transform = transform or EvalTransform(image_size=32)
    return Predictor(
        model=model.eval(), objectives=nn.ModuleDict(heads).eval(), tokenizer=tokenizer(), transform=transform
    )


def clip() -> Predictor:
    classes = Classification(head="random", features="pooled", class_names=("cat", "dog", "cow"), feature_width=16)
    classes.initialised.fill_(True)
    model = VisionLanguageModel(vision=vit(), text=clip_text(), projection=_projection(logit_bias=-1.5))
    return _predictor(model, classification=classes)


def albef(kind: str = "rank") -> Predictor:
    options: dict[str, Any] = {
        "answers": ANSWERS,
        "kind": kind,
        "label_smoothing": 0.1,
        "first_token_twice": True,
        "candidates": 4,
    }
    if kind == "classify":
        options = {"answers": ANSWERS, "width": 16}
    fusion = CrossFusion(image_width=16, text_width=16, width=16, layers=2, heads=2)
    model = VisionLanguageModel(
        vision=vit(), text=bert(), projection=_projection(divisor=True), fusion=fusion,
        decoder=None if kind == "classify" else decoder(),
    )  # fmt: skip
    return _predictor(model, itm=ITM(width=16), vqa=VQA(**options))


def captioner(**options: Any) -> Predictor:
    model = VisionLanguageModel(vision=vit(), text=bert(), decoder=decoder())
    return _predictor(model, captioning=Captioning(prompt="a red", max_length=14, **options))


def dense(names: str = "classes") -> Predictor:
    model = VisionLanguageModel(vision=vit(), text=clip_text(), projection=_projection())
    head = functools.partial(PlaceDetector, mask_channels=4 if names == "classes" else 0, up=1)
    own: dict[str, Any] = {"states_width": 16, "names": names, "embed_width": 12}
    closed = names == "classes"
    detection = Detection(
        head=head, class_names=("cat", "dog", "cow"), threshold=0.4, nms=0.6 if closed else None, **own
    )
    segmentation = Segmentation(segment_names=("sky", "sea", "land"), channels=8, up=1, **own)
    nn.init.normal_(detection.detector.boxes.mlp.layers[-1].weight, std=0.5)  # boxes of several places overlap
    transform = Letterbox(image_size=32, where="centre") if closed else EvalTransform(image_size=32)
    return _predictor(model, transform, detection=detection, segmentation=segmentation)


PREDICTORS: dict[str, Callable[[], Predictor]] = {
    "clip": clip,
    "rank": albef,
    "classify": lambda: albef("classify"),
    "generate": lambda: albef("generate"),
    "beams": captioner,
    "greedy": lambda: captioner(beams=1, repetition_penalty=1.3, min_length=0),
    "dense": dense,
    "dense texts": lambda: dense("texts"),
}


def build(name: str) -> Predictor:
    torch.manual_seed(0)
    return PREDICTORS[name]()
