"""Translation: what is learned, texts with and without pictures, figures with the right, another and no picture, two processes."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.gradients import gradients
from tests.processes import run_processes
from tests.towers import ToyText, ToyVision
from tests.words import WordTokenizer
from vlp.data.collate import Collate, LoadedExample
from vlp.data.transforms import EvalTransform
from vlp.models.decoder.causal import CausalDecoder
from vlp.models.features import compute_features
from vlp.models.fusion.cross import CrossFusion
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import NO_IMAGE, Batch, Sample
from vlp.tasks.translation import Translation

GERMAN = ("roter", "blauer", "grüner", "ein", "Kreis", "Kreise", "eins", "zwei")
TOKENIZER = WordTokenizer(("[v]", "a", "red", "blue", "green", "circle", "one", "two", *GERMAN))
COLOURS = {"red": "roter", "blue": "blauer", "green": "grüner"}


class Data:
    """Three pictures of one colour each, whose sentence does not name it, and two sentences without a picture."""

    name, source_language, target_language, sampler = "toy", "en", "de", None

    def __init__(self, folder: Path) -> None:
        self.samples = []
        for number, (colour, german) in enumerate(COLOURS.items()):
            path = folder / f"{colour}.png"
            PIL.Image.new("RGB", (4, 4), colour).save(path)
            self.samples.append(
                Sample(
                    id=number,
                    sample=number,
                    image=path,
                    question="a [v] circle",
                    answers=(f"ein {german} Kreis ein Kreis",),
                )
            )
        for number, (english, german) in enumerate({"one": "eins", "two": "zwei"}.items(), 3):
            self.samples.append(
                Sample(
                    id=number,
                    sample=number,
                    image=NO_IMAGE,
                    question=f"{english} circle",
                    answers=(f"{german} Kreise ein Kreis",),
                )
            )
        self.transform = {"eval": EvalTransform(image_size=4)}

    def split(self, name: str) -> list[Sample]:
        return self.samples

    def batch(self, rows: slice = slice(None), *, training: bool) -> Batch:
        examples = [
            LoadedExample(
                sample=sample,
                seed=sample.id,
                pixels=self.transform["eval"](PIL.Image.open(sample.image)) if sample.has_image else None,
                captions=(),
            )
            for sample in self.samples[rows]
        ]
        fields = frozenset(("question", "answers", "no_image"))
        batch = Collate(tokenizer=TOKENIZER, available_fields=fields, classes=0, training=training)(examples)
        assert batch is not None
        return batch


def toy() -> VisionLanguageModel:
    torch.manual_seed(0)
    fusion = CrossFusion(image_width=8, text_width=6, width=6, layers=1, heads=2, hidden_width=6, dropout=0.0)
    decoder = CausalDecoder(
        vocabulary_size=TOKENIZER.size, memory_width=6, width=16, layers=1, heads=2, context_length=16, dropout=0.0
    )
    return VisionLanguageModel(vision=ToyVision(), text=ToyText(), fusion=fusion, decoder=decoder)


def loss(task: Translation, model: VisionLanguageModel, batch: Batch) -> torch.Tensor:
    return task(model, batch, compute_features(model, batch, task.uses)).value


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def trained(data: Data) -> VisionLanguageModel:
    """It knows the five sentences by heart, three of them by their picture."""
    model, task, batch = toy(), Translation(weight=1.0), data.batch(training=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss(task, model, batch).backward()
        optimizer.step()
    return model.eval()


def measured(model: VisionLanguageModel, data: Data, sizes: tuple[int, ...] = (5,), **options: Any) -> dict[str, Any]:
    task = Translation(**{"resamples": 20} | options).eval()
    task.prepare(model, TOKENIZER, data)
    task.reset()
    start = 0
    for size in sizes:
        batch = data.batch(slice(start, start + size), training=False)
        task.update(model, batch, compute_features(model, batch, task.uses))
        start += size
    return task.compute(model)


def test_the_picture_decides_the_colour(trained: VisionLanguageModel, data: Data, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    figures = measured(trained, data, photos=["right", "shuffled", "none"], results_file=file)
    assert figures["bleu"] == pytest.approx(100)
    assert figures["right_colour"] == figures["right_right_colour"] == 100
    assert figures["shuffled_right_colour"] == 0, "each sentence has got the colour of another picture"
    assert figures["none_right_colour"] <= 100 / 3
    assert figures["sentences"] == 5
    assert figures["pictured_sentences"] == 3
    assert figures["text_bleu"] < figures["bleu"]
    assert figures["right_over_shuffled_bleu"] == pytest.approx(figures["right_bleu"] - figures["shuffled_bleu"])
    assert figures["right_over_shuffled_bleu_low"] <= figures["right_over_shuffled_bleu_high"]
    records = json.loads(file.read_text())
    assert records[0]["translations"]["right"] == records[0]["reference"] == "ein roter Kreis ein Kreis"
    assert records[3] == {
        "sample": 3,
        "source": "one circle",
        "reference": "eins Kreise ein Kreis",
        "translations": {"none": "eins Kreise ein Kreis"},
    }


def test_figures_do_not_depend_on_batches(trained: VisionLanguageModel, data: Data) -> None:
    options: dict[str, Any] = {"photos": ["right", "shuffled", "none"]}
    assert measured(trained, data, (1, 3, 1), **options) == measured(trained, data, **options)


def test_masked_sources_are_measured_beside(trained: VisionLanguageModel, data: Data) -> None:
    figures = measured(trained, data, photos=["right"], masked=True)
    assert figures["masked_bleu"] == figures["bleu"], "these sources have no colour words"
    assert figures["masked_right_right_colour"] == 100


def test_signatures_are_on_the_card() -> None:
    card = Translation(lowercase=True).card()
    assert "case:lc|eff:no|tok:13a" in card["bleu_signature"]
    assert card["chrf_signature"].startswith("nrefs:1|case:lc")


def test_closed_form_of_the_loss(data: Data) -> None:
    """The mean over tokens, of a batch as of its rows."""
    model, task = toy().eval(), Translation(weight=1.0)
    batches = [data.batch(slice(i, i + 1), training=True) for i in range(5)]
    tokens = torch.tensor([float(batch.answer.mask.sum() - 1) for batch in batches])
    single = torch.stack([loss(task, model, batch) for batch in batches])
    expected = (single * tokens).sum() / tokens.sum()
    torch.testing.assert_close(loss(task, model, data.batch(training=True)), expected, rtol=1e-5, atol=1e-6)


def test_prediction_takes_texts_with_and_without_pictures(trained: VisionLanguageModel, data: Data) -> None:
    task = Translation().eval()
    task.prepare(trained, TOKENIZER, data)
    found = task.predict(trained, data.batch(training=False))
    assert [row["translation"] for row in found] == [sample.answers[0] for sample in data.samples]


def test_what_it_is_not_for(data: Data) -> None:
    task, batch = Translation(), data.batch(training=True)
    assert task.applies(batch, "toy")
    labelled = Batch(id=batch.id, sample=batch.sample, seed=batch.seed, question=batch.question, label=batch.id)
    assert not task.applies(labelled, "toy")


@pytest.mark.parametrize("photos", [[], ["left"], ["right", "right"]])
def test_photos_that_do_not_exist(photos: list[str]) -> None:
    with pytest.raises(ValueError, match=r"give some of right, shuffled, none, each once"):
        Translation(photos=photos)


def test_texts_that_the_tokenizer_cuts_are_counted(data: Data) -> None:
    class Training(Data):
        sampler: Any = object()

        def __init__(self) -> None:
            long = "ein " * 30 + "Kreis"
            self.samples = [Sample(id=0, sample=0, image=NO_IMAGE, question="a circle", answers=(long,))]

    task = Translation(weight=1.0)
    with pytest.warns(
        UserWarning, match="1 of 1 translations of toy train are longer than tokenizer.context_length=16"
    ):
        task.prepare(toy(), TOKENIZER, Training())


class Step(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = toy().double()
        self.task = Translation(weight=1.0)

    def forward(self, batch: Batch) -> torch.Tensor:
        return loss(self.task, self.model, batch)


def _on_rank(rank: int, world: int, folder: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    data = Data(Path(folder) / str(rank))
    # the second process has no picture: the first three samples have one
    own = data.batch((slice(0, 3), slice(3, 5))[rank], training=True)
    figures = _own_figures(data, range(rank, 5, world))
    return gradients(DistributedDataParallel(Step()), own), figures


def _own_figures(data: Data, positions: range) -> dict[str, Any]:
    """Of every second sample, as EvalSampler gives them to two processes."""
    model, task = toy().eval(), Translation(photos=["right", "shuffled", "none"], resamples=20, max_length=8).eval()
    task.prepare(model, TOKENIZER, data)
    task.reset()
    for position in positions:
        batch = data.batch(slice(position, position + 1), training=False)
        task.update(model, batch, compute_features(model, batch, task.uses))
    return task.compute(model)


@functools.cache
def _two(folder: str) -> list[Any]:
    for rank in range(2):
        (Path(folder) / str(rank)).mkdir()
    return run_processes(2, _on_rank, Path(folder) / "results", folder)


def test_two_processes_equal_one(data: Data, tmp_path: Path) -> None:
    one, figures = gradients(Step(), data.batch(training=True)), _own_figures(data, range(5))
    for two, figures_of_two in _two(str(tmp_path)):
        assert figures_of_two == pytest.approx(figures)
        assert one.keys() == two.keys()
        for name, expected in one.items():
            torch.testing.assert_close(two[name], expected, rtol=0, atol=1e-12, msg=name)
