"""Which fields a batch has is decided by the data set, not by the samples that happen to be in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.mixtures import Pictures, Words
from tests.processes import run_processes
from tests.towers import toy_model
from vlp.data.collate import Collate, LoadedExample
from vlp.data.packed_samples import PackedSamples, available_fields
from vlp.data.transforms import EvalTransform
from vlp.models.features import compute_features
from vlp.structures import Batch, Sample
from vlp.system.errors import UserError
from vlp.tasks.vqa import VQA

ANSWERS = ("yes", "no")


def sample(number: int, *, image: Path = Path("x.png"), **said: Any) -> Sample:
    return Sample(id=number, sample=number, image=image, **said)


def collated(samples: Sequence[Sample], given: Sequence[Sample], *, training: bool = True, classes: int = 0) -> Batch:
    collate = Collate(
        tokenizer=Words(), available_fields=PackedSamples(given).available_fields, classes=classes, training=training,
        answers={name: index for index, name in enumerate(ANSWERS)},
    )  # fmt: skip
    pixels = torch.zeros(3, 2, 2, dtype=torch.uint8)
    batch = collate(
        [LoadedExample(sample=s, seed=0, pixels=pixels, captions=s.captions, also_true=s.also_true) for s in samples]
    )
    assert batch is not None
    return batch


def test_what_the_batch_lacks_and_the_data_set_has_is_there_without_weight() -> None:
    given = [sample(0, captions=("a",), also_true=((1,),), label=2, answers=("yes",)), sample(1, captions=("a", "b"))]
    batch = collated(given[1:], given)
    assert batch.label is not None
    assert batch.label.tolist() == [-1]
    assert batch.scores is not None
    assert batch.scores.tolist() == [[0.0, 0.0]]
    assert batch.answer_weight is not None
    assert batch.answer_weight.tolist() == [[0.0]]
    assert batch.answer is not None
    assert batch.answer.ids.shape[:2] == (1, 1)
    assert batch.also_true is not None
    assert batch.also_true.shape == (1, 2, 0)


def test_what_the_data_set_lacks_is_none() -> None:
    samples = [sample(0, captions=("a",))]
    batch = collated(samples, samples)
    assert (
        batch.label is batch.scores is batch.answer is batch.answer_weight is batch.also_true is batch.question is None
    )


def test_categories_are_of_data_without_labels() -> None:
    labelled = [sample(0, label=1), sample(1)]
    assert collated(labelled[1:], labelled, classes=3).categories is None
    shown = [sample(0, categories=(2,)), sample(1)]
    found = collated(shown[1:], shown, classes=3).categories
    assert found is not None
    assert found.tolist() == [[False] * 3]


@pytest.mark.parametrize("said", [{"captions": ("a",)}, {"question": "is it?"}])
def test_texts_cannot_be_left_empty(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="split them into two data sources"):
        collated([sample(1)], [sample(0, **said), sample(1)])
    collated([sample(1)], [sample(0, **said), sample(1)], training=False)


def test_shards_are_known_by_their_first_sample() -> None:
    """Only packed samples are all known beforehand."""
    samples = [sample(0, captions=("a",)), sample(1, captions=("b",), label=1)]
    assert "label" not in available_fields(samples)
    assert "label" in available_fields(PackedSamples(samples))
    with pytest.raises(ValueError, match="a sample has label, and the first one of its data set has none"):
        collated(samples, samples[:1])


class HalfAnswered(Pictures):
    """Every other question has no answer."""

    def samples(self, split: str) -> list[Sample]:
        self.answer_names = ANSWERS
        asked = [("yes",), (), (), ("no",), (), ("yes",), (), ()]
        image = self.image_of(split)
        return [sample(i, image=image, question=f"is it {i}?", answers=given) for i, given in enumerate(asked)]


class Step(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        model = toy_model(fused=True)
        model.text.embedding, model.projection = torch.nn.Embedding(300, 6), None
        torch.manual_seed(1)
        self.model, self.task = model.double(), VQA(width=4, answers=ANSWERS, weight=1.0).double()

    def forward(self, batch: Batch) -> torch.Tensor:
        assert self.task.applies(batch, "asked")
        return self.task(self.model, batch, compute_features(self.model, batch, self.task.uses)).value


def trained(rank: int, world: int, root: str) -> dict[str, torch.Tensor]:
    """Batches of two: in several steps one of two ranks has no answer, and in one of them neither has."""
    transform = {kind: EvalTransform(image_size=4) for kind in ("train", "eval")}
    data = HalfAnswered(count=8, name="asked", root=root, transform=transform, tokenizer=Words(), batch_size=2, seed=0)
    data.prepare_data()
    data.setup("fit")
    step = Step()
    run = DistributedDataParallel(step) if world > 1 else step
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        run(batch).backward()
        assert all(parameter.grad is not None for parameter in step.parameters())
        optimizer.step()
    return {name: parameter.detach() for name, parameter in step.named_parameters()}


def test_a_rank_whose_samples_have_no_answers_trains_with_the_other(tmp_path: Path) -> None:
    expected = trained(0, 1, str(tmp_path))
    for found in run_processes(2, trained, tmp_path / "out", str(tmp_path)):
        for name, parameter in expected.items():
            torch.testing.assert_close(found[name], parameter, rtol=1e-9, atol=1e-12, msg=name)


class HalfAsked(Pictures):
    """Every other picture has a question."""

    def samples(self, split: str) -> list[Sample]:
        image = self.image_of(split)
        return [sample(i, image=image, captions=("it",), question="is it?" if i % 2 else None) for i in range(8)]


def test_an_error_of_a_worker_is_told_as_it_was_raised(tmp_path: Path) -> None:
    """torch gives it as a whole traceback."""
    transform = {kind: EvalTransform(image_size=4) for kind in ("train", "eval")}
    data = HalfAsked(
        count=8, name="asked", root=tmp_path, transform=transform, tokenizer=Words(), batch_size=8, num_workers=1
    )
    data.prepare_data()
    data.setup("fit")
    with pytest.raises(ValueError, match="split them into two data sources") as raised:
        list(data.train_dataloader())
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("4 of 8 samples")


def test_captions_are_left_out_where_a_model_without_texts_is_measured() -> None:
    captioned = sample(0, captions=("a",))
    examples = [
        LoadedExample(sample=captioned, seed=0, pixels=torch.zeros(3, 2, 2, dtype=torch.uint8), captions=("a",))
    ]
    settings: dict[str, Any] = {"tokenizer": None, "available_fields": frozenset(("captions",)), "classes": 0}
    batch = Collate(**settings, training=False)(examples)
    assert batch is not None
    assert batch.caption is None
    with pytest.raises(UserError, match="no tokenizer is configured"):
        Collate(**settings, training=True)(examples)
