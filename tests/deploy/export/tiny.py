"""Predictors of every family, small and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from tests.deploy.export.parts import CONTEXT, SIZE, bert, clip_text, vit
from vlp.data.transforms import EvalTransform, MinMaxTransform
from vlp.models.decoder.causal import CausalDecoder
from vlp.models.decoder.coca import CocaDecoder
from vlp.models.dense.detector import PlaceDetector
from vlp.models.fusion.cross import CrossFusion
from vlp.models.fusion.grounded import GroundedFusion
from vlp.models.fusion.single_stream import SingleStreamFusion
from vlp.models.projection.linear import LinearProjection
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vision.vilt_patches import ViltPatches
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.itm import ITM
from vlp.predictor import Predictor
from vlp.tasks.captioning import Captioning
from vlp.tasks.classification import Classification
from vlp.tasks.detection import Detection
from vlp.tasks.probe import Probe
from vlp.tasks.segmentation import Segmentation
from vlp.tasks.vqa import VQA
from vlp.tokenizers.trained import TrainedTokenizer

CLASSES = ("circle", "square", "heart")
ANSWERS = ("yes", "no", "two")
WIDTH = 16


@lru_cache
def tokenizer() -> TrainedTokenizer:
    built = TrainedTokenizer(size=300, context_length=CONTEXT)
    built.train(["a red circle left of a blue square", "two dogs run", "is it a heart? yes"] * 3)
    return built


def projection(width: int = 8) -> LinearProjection:
    return LinearProjection(image_width=WIDTH, text_width=WIDTH, width=width)


def cross(layers: int = 2) -> CrossFusion:
    return CrossFusion(image_width=WIDTH, text_width=WIDTH, width=WIDTH, layers=layers, heads=2)


def decoder(**options: Any) -> CausalDecoder:
    sizes = {"vocabulary_size": 300, "context_length": CONTEXT, "width": WIDTH, "layers": 2, "heads": 2}
    return CausalDecoder(**(sizes | {"memory_width": WIDTH} | options))


def coca_decoder() -> CocaDecoder:
    return CocaDecoder(vocabulary_size=300, memory_width=WIDTH, context_length=CONTEXT, width=WIDTH, layers=2, heads=2)


def predictor(heads: dict[str, Any] | None = None, *, transform: Any = None, **parts: Any) -> Predictor:
    model = VisionLanguageModel(**parts).eval()
    objectives = nn.ModuleDict(heads or {}).eval()
    transform = EvalTransform(image_size=SIZE) if transform is None else transform
    return Predictor(model=model, objectives=objectives, tokenizer=tokenizer(), transform=transform)


def clip() -> Predictor:
    return predictor(vision=vit(), text=clip_text(), projection=projection())


def clip_with_classifiers() -> Predictor:
    head = Classification(class_names=CLASSES, feature_width=8, head="text")
    head.initialised.fill_(True)
    return predictor({"classification": head}, vision=vit(), text=clip_text(), projection=projection())


def probed() -> Predictor:
    head = Probe(class_names=CLASSES, feature_width=64)
    built = predictor({"probe": head}, vision=SmallCnn(image_size=SIZE, channels=16))
    width = built.model.vision.width
    head = Probe(class_names=CLASSES, feature_width=width)
    head.head_weight.copy_(torch.randn(len(CLASSES), width))
    built.objectives["probe"] = head.eval()
    return built


def albef() -> Predictor:
    heads = {"itm": ITM(width=WIDTH), "vqa": VQA(kind="rank", answers=ANSWERS)}
    return predictor(
        heads, vision=vit(norm_states=True), text=bert(), projection=projection(), fusion=cross(), decoder=decoder()
    )


def vilt() -> Predictor:
    heads = {"itm": ITM(width=WIDTH, contrastive=False), "vqa": VQA(answers=ANSWERS, width=WIDTH)}
    fusion = SingleStreamFusion(image_width=WIDTH, text_width=WIDTH, width=WIDTH, layers=2, heads=2)
    vision = ViltPatches(image_size=SIZE, patch_size=8, width=WIDTH)
    transform = MinMaxTransform(image_size=SIZE, multiple=8)
    return predictor(heads, transform=transform, vision=vision, text=bert(layers=0), fusion=fusion)


def blip() -> Predictor:
    heads = {"itm": ITM(width=WIDTH), "captioning": Captioning(prompt="a", max_length=10, min_length=2)}
    return predictor(
        heads,
        vision=vit(norm_states=True),
        text=bert(memory_width=WIDTH, token_types=0),
        projection=projection(),
        fusion=partial(GroundedFusion, start_id=5),
        decoder=decoder(start_id=6),
    )


def coca() -> Predictor:
    vision = vit(pool="attention", pool_queries=5, pool_heads=2, class_token=True)
    text = clip_text(class_token=True)
    heads = {"captioning": Captioning(max_length=10, min_length=2)}
    return predictor(heads, vision=vision, text=text, projection=projection(), decoder=coca_decoder())


def detector(names: str = "classes", channels: int = 4) -> Predictor:
    head = Detection(
        head=partial(PlaceDetector, mask_channels=channels), states_width=WIDTH, class_names=CLASSES, names=names, embed_width=8,
        levels=("blocks.0",), level_widths=(WIDTH,),
    )  # fmt: skip
    return predictor({"detection": head}, vision=vit(), text=clip_text(), projection=projection())


def segmenter(head: str = "pixels", names: str = "classes") -> Predictor:
    task = Segmentation(
        head=head, segment_names=CLASSES, states_width=WIDTH, names=names, embed_width=8, channels=8, up=1,
    )  # fmt: skip
    return predictor({"segmentation": task}, vision=vit(), text=clip_text(), projection=projection())


FAMILIES: dict[str, Callable[[], Predictor]] = {
    "clip": clip,
    "classification": clip_with_classifiers,
    "probe": probed,
    "albef": albef,
    "vilt": vilt,
    "blip": blip,
    "coca": coca,
    "detection": detector,
    "detection of texts": lambda: detector("texts", 0),
    "segmentation": segmenter,
    "segmentation of texts": lambda: segmenter(names="texts"),
    "segmentation by a linear map": lambda: segmenter("linear"),
    "segmentation without training": lambda: segmenter("zero_shot", "texts"),
}


def build(name: str) -> Predictor:
    torch.manual_seed(0)
    return FAMILIES[name]()
