from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Image, Text, Tokens
from vlp.tasks.zero_shot import OPENAI_TEMPLATES, ZeroShot
from vlp.tokenizers.trained import TrainedTokenizer

NAMES = ("cat", "dog", "bird", "cow", "owl", "ant")
TEMPLATES = ("a photo of a {}.", "the {}")


class BagOfWords(nn.Module):
    """A text tower: the sum of random word vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(300, 8)

    def forward(self, text: Text) -> Tokens:
        states = self.table(text.ids) * text.mask[..., None]
        return Tokens(states=states, pooled=states.sum(1), mask=text.mask)


class Through(nn.Module):
    def project_text(self, pooled: torch.Tensor) -> torch.Tensor:
        return pooled


@pytest.fixture
def model() -> VisionLanguageModel:
    torch.manual_seed(0)
    return VisionLanguageModel(text=BagOfWords(), projection=Through())


@pytest.fixture
def tokenizer() -> TrainedTokenizer:
    tokenizer = TrainedTokenizer(size=300)
    tokenizer.train([template.replace("{}", name) for template in TEMPLATES for name in NAMES])
    return tokenizer


def ready(model: VisionLanguageModel, tokenizer: TrainedTokenizer, **options: object) -> ZeroShot:
    task = ZeroShot(templates=TEMPLATES, **options)
    task.reset()
    task.prepare(model, tokenizer, SimpleNamespace(class_names=NAMES))
    return task


def batch_of(**fields: Any) -> Batch:
    index = torch.arange(len(next(iter(fields.values()))))
    pixels = torch.randint(0, 256, (len(index), 3, 4, 4), dtype=torch.uint8)  # no image comes twice
    return Batch(id=index, sample=index, seed=index, image=Image(pixels=pixels), **fields)


def class_weights(model: VisionLanguageModel, tokenizer: TrainedTokenizer) -> torch.Tensor:
    rows = []
    for name in NAMES:
        prompts = [model.embed_text(model.encode_text(tokenizer([t.replace("{}", name)])))[0] for t in TEMPLATES]
        rows.append(F.normalize(sum(prompts) / len(prompts), dim=0))
    return torch.stack(rows).detach()


def test_the_templates_are_openais_80() -> None:
    lines = OPENAI_TEMPLATES.read_text().splitlines()
    assert len(set(lines)) == 80
    assert all(line.count("{}") == 1 for line in lines)
    assert ZeroShot().templates == tuple(lines)


def test_top1_top5_and_the_mean_over_classes(model: VisionLanguageModel, tokenizer: TrainedTokenizer) -> None:
    task = ready(model, tokenizer, prompts=5)
    weights = class_weights(model, tokenizer)
    image = F.normalize(weights[[0, 0, 0, 1, 2]] + 1e-3, dim=-1)
    label = torch.tensor([0, 0, 1, 1, -1])  # the third is wrong, the last unknown
    task.update(model, batch_of(label=label), Features(image_embed=image))
    figures = task.compute(model)
    assert figures["top1"] == pytest.approx(75)
    assert figures["mean_per_class"] == pytest.approx(75)
    place = (weights @ image[2]).argsort(descending=True).tolist().index(1)
    assert figures["top5"] == pytest.approx(100 if place < 5 else 75)
    assert figures["images"] == 4


def test_equal_scores_are_chance(model: VisionLanguageModel, tokenizer: TrainedTokenizer) -> None:
    task = ready(model, tokenizer)
    task.update(model, batch_of(label=torch.tensor([0, 3])), Features(image_embed=torch.zeros(2, 8)))
    figures = task.compute(model)
    assert (figures["top1"], figures["top5"]) == (pytest.approx(100 / 6), pytest.approx(500 / 6))


def test_several_categories_an_image(model: VisionLanguageModel, tokenizer: TrainedTokenizer) -> None:
    task = ready(model, tokenizer)
    weights = class_weights(model, tokenizer)
    torch.manual_seed(1)
    image = F.normalize(torch.randn(20, 8), dim=-1)
    shown = torch.rand(20, 6) < 0.3
    shown[:, 5] = False  # a class that no image shows does not count
    task.update(model, batch_of(categories=shown[:13]), Features(image_embed=image[:13]))
    task.update(model, batch_of(categories=shown[13:]), Features(image_embed=image[13:]))
    figures = task.compute(model)
    scores = image @ weights.T
    precisions = []
    for index in range(5):
        hits = shown[scores[:, index].argsort(descending=True), index].float()
        precisions.append(float((hits.cumsum(0) / torch.arange(1, 21) * hits).sum() / hits.sum()))
    assert figures["mean_average_precision"] == pytest.approx(100 * sum(precisions) / 5, abs=1e-3)
    some = shown.any(1)
    top = shown[some].gather(1, scores[some].argmax(1, keepdim=True)).float().mean()
    assert figures["top1"] == pytest.approx(100 * float(top))


def test_label_of_a_choice_is_no_class() -> None:
    batch = batch_of(label=torch.zeros(1, dtype=torch.int64))
    choices = Text(ids=torch.ones(1, 2, 3).long(), mask=torch.ones(1, 2, 3).bool())
    assert ZeroShot().applies(batch, "x")
    assert not ZeroShot().applies(dataclasses.replace(batch, choices=choices), "x")
    assert not ZeroShot().applies(dataclasses.replace(batch, label=None), "x")


def test_errors(model: VisionLanguageModel, tokenizer: TrainedTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs \{\} for the class name"):
        ZeroShot(templates=["a photo"])
    with pytest.raises(FileNotFoundError, match="no templates"):
        ZeroShot(templates=str(tmp_path / "none.txt"))
    task = ready(model, tokenizer)
    task.prepare(model, tokenizer, SimpleNamespace())
    with pytest.raises(ValueError, match="class_names"):
        task.update(model, batch_of(label=torch.tensor([0])), Features(image_embed=torch.zeros(1, 8)))
