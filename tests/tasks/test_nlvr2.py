"""Sentences about two images: which head sees what, ALBEF's numbers, accuracy, and that a pair can be learned.

ViLT's numbers are in tests/checkpoints/test_vilt.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vlp
from tests.checkpoints.fixtures import arrays
from tests.towers import ToyText, ToyVision
from vlp.models.features import compute_features
from vlp.models.fusion.cross import CrossFusion
from vlp.models.fusion.single_stream import SingleStreamFusion
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Image, Text
from vlp.tasks.nlvr2 import NLVR2


def model(head: str) -> VisionLanguageModel:
    torch.manual_seed(0)
    options = {"image_width": 8, "text_width": 6, "width": 8, "layers": 2, "heads": 2, "dropout": 0.0, "images": 2}
    fusion = SingleStreamFusion(**options) if head == "vilt" else CrossFusion(**options)  # type: ignore[arg-type]
    return VisionLanguageModel(vision=ToyVision(), text=ToyText(), fusion=fusion)


def batch(size: int = 16) -> Batch:
    """A sentence is true where the left image is the brighter one."""
    torch.manual_seed(1)
    ids, bright = torch.arange(size), torch.rand(size, 2)
    pixels = torch.rand(size, 2, 3, 4, 4) + bright[:, :, None, None, None]
    words = Text(ids=torch.randint(1, 30, (size, 5)), mask=torch.ones(size, 5, dtype=torch.bool))
    label = (bright[:, 0] > bright[:, 1]).long()
    return Batch(id=ids, sample=ids + 100, seed=ids, image=Image(pixels=pixels), question=words, label=label)


@pytest.mark.parametrize("head", ["vilt", "albef"])
def test_learns_which_of_two_images_is_brighter(head: str) -> None:
    samples, pair, task = batch(), model(head), NLVR2(width=8, head=head, weight=1.0)
    optimizer = torch.optim.Adam([*pair.parameters(), *task.parameters()], lr=0.01)
    for _ in range(150):
        loss = task(pair, samples, Features())
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert loss.logs["accuracy"] > 90
    task.reset()
    task.update(pair, samples, Features())
    figures = task.compute(pair)
    records = task.predict(pair, samples)
    right = [record["true"] == bool(label) for record, label in zip(records, samples.label.tolist(), strict=True)]
    assert figures == {"accuracy": pytest.approx(100 * sum(right) / len(right)), "chance": 50.0}
    assert [record["sample"] for record in records] == samples.sample.tolist()


def test_samples_without_a_label_do_not_count() -> None:
    samples, pair, task = batch(), model("vilt"), NLVR2(width=8)
    guess = task.logits(pair, samples).argmax(1)
    label = guess.clone()
    label[0], label[1:4] = 1 - guess[0], -1
    task.reset()
    task.update(pair, replace(samples, label=label), Features())
    assert task.compute(pair)["accuracy"] == pytest.approx(100 * 12 / 13)
    task.reset()
    with pytest.raises(ValueError, match="NLVR2: no sample has a known label"):
        task.compute(pair)


@torch.no_grad()
def test_the_order_of_the_images_matters_and_that_of_the_pairs_does_not() -> None:
    samples, pair, task = batch(), model("vilt"), NLVR2(width=8)
    for parameter in [*pair.parameters(), *task.parameters()]:
        torch.nn.init.normal_(parameter, std=0.5)
    logits = task.logits(pair, samples)
    swapped = replace(samples, image=Image(pixels=samples.image.pixels.flip(1)))
    backwards = replace(
        samples,
        image=samples.image.select(torch.arange(15, -1, -1)),
        question=samples.question.select(torch.arange(15, -1, -1)),
    )
    assert (task.logits(pair, swapped) - logits).abs().max() > 1e-4
    torch.testing.assert_close(task.logits(pair, backwards).flip(0), logits)


@pytest.mark.parametrize(
    ("head", "built", "words"), [("albef", "vilt", "pools 16 numbers"), ("vilt", "albef", "pools 8 numbers")]
)
def test_a_head_for_another_fusion(head: str, built: str, words: str) -> None:
    with pytest.raises(
        ValueError, match=f"this fusion {words} for two images and the head takes .*: set tasks.nlvr2.head"
    ):
        NLVR2(width=8, head=head).logits(model(built), batch())


def test_one_image_is_no_pair() -> None:
    samples = batch()
    with pytest.raises(ValueError, match=r"pixels \[b 2 3 h w\]"):
        NLVR2(width=8).logits(model("vilt"), replace(samples, image=Image(pixels=samples.image.pixels[:, 0])))
    with pytest.raises(ValueError, match="unknown head 'blip' of nlvr2: choose vilt or albef"):
        NLVR2(width=8, head="blip")


@torch.no_grad()
def test_the_numbers_of_albef(shared: Path) -> None:
    """The distilled loss too, of the step's moved copy."""
    folder = shared / "reference" / "albef" / "nlvr"
    predictor = vlp.load(folder / "checkpoint_01.pth")
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    ids = torch.arange(3)
    samples = Batch(
        id=ids, sample=ids, seed=ids, image=Image(pixels=torch.stack(inputs["image"].chunk(2), dim=1)),
        question=Text(ids=inputs["input_ids"], mask=inputs["attention_mask"].bool()), label=inputs["targets"],
    )  # fmt: skip
    task, momentum = predictor.objectives["nlvr2"], predictor.momentum
    torch.testing.assert_close(task.logits(predictor.model, samples), expected["logits"], atol=1e-5, rtol=0)
    momentum.step()
    features = compute_features(predictor.model, samples, task.uses, momentum=momentum)
    assert task.distillation == 0.4
    loss = task(predictor.model, samples, features)
    torch.testing.assert_close(loss.value, expected["train_loss_alpha04"], atol=1e-5, rtol=0)
