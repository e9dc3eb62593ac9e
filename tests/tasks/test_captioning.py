"""Captioning: what is written for which image, figures, results and the ways of choosing tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.towers import ToyVision
from tests.words import WordTokenizer
from vlp.metrics.caption_metrics import caption_scores
from vlp.models.decoder.causal import CausalDecoder
from vlp.models.features import compute_features
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.lm import LM
from vlp.structures import Batch, Image, Sample
from vlp.tasks.captioning import Captioning

TOKENIZER = WordTokenizer()
CAPTIONS = ("a red circle", "two blue square", "one green circle is the picture", "no picture")
PIXELS = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def toy() -> VisionLanguageModel:
    torch.manual_seed(0)
    decoder = CausalDecoder(
        vocabulary_size=TOKENIZER.size, memory_width=8, width=16, layers=1, heads=2, context_length=16, dropout=0.0
    )
    return VisionLanguageModel(vision=ToyVision(), decoder=decoder).double()


def batch(**fields: Any) -> Batch:
    rows = torch.arange(4)
    return Batch(**{"id": rows + 50, "sample": rows, "seed": rows, "image": Image(pixels=PIXELS)} | fields)


def raw(references: tuple[tuple[str, ...], ...]) -> tuple[Sample, ...]:
    return tuple(
        Sample(id=50 + i, sample=i, image=Path(f"{i}.png"), captions=captions) for i, captions in enumerate(references)
    )


def task(**options: Any) -> Captioning:
    captioner = Captioning(**{"min_length": 0, "max_length": 12} | options)
    captioner.prepare(toy(), TOKENIZER, None)
    captioner.reset()
    return captioner


@pytest.fixture(scope="module")
def trained_model() -> VisionLanguageModel:
    """A model that knows the four captions by heart, after the prompt "picture of"."""
    model, objective = toy(), LM(prompt="picture of")
    objective.prepare(model, TOKENIZER, None)
    on = batch(caption=TOKENIZER(CAPTIONS))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        loss = objective(model, on, compute_features(model, on, objective.uses)).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("options", [{"beams": 1}, {"beams": 3}, {"top_p": 0.1}])
def test_writes_what_was_learned(trained_model: VisionLanguageModel, options: dict[str, Any]) -> None:
    captioner = task(prompt="picture of", **options)
    assert captioner.caption(trained_model, TOKENIZER, Image(pixels=PIXELS)) == list(CAPTIONS)
    assert captioner.predict(trained_model, batch())[1] == {"image_id": 51, "caption": CAPTIONS[1]}


def test_lengths_count_start_and_prompt(trained_model: VisionLanguageModel) -> None:
    found = task(prompt="picture of", max_length=5).caption(trained_model, TOKENIZER, Image(pixels=PIXELS))
    assert max(len(caption.split()) for caption in found) == 2
    found = task(prompt="picture of", min_length=7).caption(trained_model, TOKENIZER, Image(pixels=PIXELS))
    assert min(len(caption.split()) for caption in found) >= 4


def test_figures_and_results(trained_model: VisionLanguageModel, tmp_path: Path) -> None:
    captioner = task(prompt="picture of", results_file=tmp_path / "results.json")
    references = ((CAPTIONS[0],), ("two red square", "two blue square is it"), (CAPTIONS[2],), ("no circle",))
    on = batch(raw=raw(references))
    captioner.update(trained_model, on, compute_features(trained_model, on, captioner.uses))
    figures = captioner.compute(trained_model)
    expected = caption_scores(
        {50 + i: caption for i, caption in enumerate(CAPTIONS)}, {50 + i: r for i, r in enumerate(references)}
    )
    assert figures == pytest.approx({name: 100 * value for name, value in expected.items()} | {"images": 4.0})
    assert 0 < figures["bleu_1"] < 100
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {"image_id": 50 + i, "caption": caption} for i, caption in enumerate(CAPTIONS)
    ]
    assert captioner.figures()["samples"][1] == ("1.png", CAPTIONS[1], references[1])


def test_sampling_depends_on_the_images_seed_alone() -> None:
    captioner, model = task(top_p=0.95), toy()
    image = Image(pixels=PIXELS[:1].expand(4, -1, -1, -1))
    found = captioner.caption(model, TOKENIZER, image, seeds=torch.arange(4))
    assert len(set(found)) > 1
    alone = captioner.caption(model, TOKENIZER, image.select(slice(2, 3)), seeds=torch.tensor([2]))
    assert alone == found[2:3]


def test_what_it_is_not_for() -> None:
    assert not task().applies(batch(raw=raw(((),) * 4)), "toy")
    assert task().applies(batch(raw=raw((("a",),) * 4)), "toy")
    with pytest.raises(ValueError, match=r"train with objective=\[lm\]"):
        Captioning(weight=1.0)
