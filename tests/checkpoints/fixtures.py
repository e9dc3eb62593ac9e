"""Reference numbers beside the checkout, and the comparison that every format's test makes with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlp.checkpoints import load
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Text


def arrays(file: Path) -> dict[str, Tensor]:
    with np.load(file) as content:
        return {key: torch.from_numpy(np.asarray(content[key])) for key in content.files}


def opened(path: Path, **architecture: object) -> VisionLanguageModel:
    return load.build_model(load.read(path, architecture))


def text(ids: Tensor, mask: Tensor | None = None) -> Text:
    return Text(ids=ids.long(), mask=ids != 0 if mask is None else mask.bool())


def outputs(model: VisionLanguageModel, pixels: Tensor, texts: Text) -> dict[str, Tensor]:
    image, words = model.encode_image(Image(pixels=pixels)), model.encode_text(texts)
    return {
        "image": model.projection.project_image(image.pooled),
        "text": model.projection.project_text(words.pooled),
        "logits": model.similarity(model.embed_image(image), model.embed_text(words)),
    }


def clip_loss(model: VisionLanguageModel, pixels: Tensor, texts: Text) -> Tensor:
    logits, label = outputs(model, pixels, texts)["logits"], torch.arange(len(pixels))
    return (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)) / 2


def check_norms(gradients: dict[str, Tensor], file: Path) -> None:
    expected = json.loads(file.read_text())
    expected = expected.get("grad_norms", expected)
    assert expected
    for key, norm in expected.items():
        if norm >= 1e-5:  # below: key biases, whose true gradient is zero
            found = float(gradients[key].norm())
            assert abs(found - norm) <= 1e-4 * norm + 1e-7, f"{key}: {found} instead of {norm}"


def gradients_of(model: VisionLanguageModel) -> dict[str, Tensor]:
    return {key: value.grad for key, value in model.named_parameters()}
