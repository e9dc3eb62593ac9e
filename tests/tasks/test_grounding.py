"""Grounding: boxes in the photo's pixels, figures and loss on hand-made batches, and two processes against one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.processes import run_processes
from tests.towers import ToyText
from vlp.models.dense.detector import Detector, Proposals
from vlp.models.features import compute_features
from vlp.models.fusion.cross import CrossFusion
from vlp.models.projection.linear import LinearProjection
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.objectives.itm import ITM
from vlp.structures import Batch, Boxes, Features, Image, Sample, Text, Tokens, require
from vlp.tasks.grounding import Grounding

SIDE, CELL = 16, 4


class Cells(nn.Module):
    """A class token and one state for each cell of 4 x 4 pixels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width, self.image_size = width, SIDE
        self.linear = nn.Linear(3 * CELL * CELL, width)

    def forward(self, image: Image) -> Tokens:
        cells = rearrange(image.pixels, "b c (r y) (s x) -> b (r s) (c y x)", y=CELL, x=CELL)
        states = self.linear(cells.to(self.linear.weight.dtype) / 255)
        states = torch.cat([states.mean(1, keepdim=True), states], 1)
        return Tokens(
            states=states, pooled=states[:, 0], grid=(image.pixels.shape[2] // CELL, image.pixels.shape[3] // CELL)
        )


class Colour(Objective):
    """A score that knows where a phrase's thing is: the amount of its colour, in the pixels of each cell."""

    def score(self, model: VisionLanguageModel, image: Tokens, text: Text) -> Tensor:
        channel = text.ids[:, 0]
        return image.states.gather(2, channel[:, None, None].expand(-1, image.states.shape[1], 1))[..., 0].sum(1)


class Channels(nn.Module):
    """The mean of each colour in each cell."""

    width = 3

    def forward(self, image: Image) -> Tokens:
        states = rearrange(image.pixels / 255, "b c (r y) (s x) -> b r s c (y x)", y=CELL, x=CELL).mean(-1)
        return Tokens(states=states.flatten(1, 2), pooled=states.mean((1, 2)), grid=tuple(states.shape[1:3]))


def _model() -> VisionLanguageModel:
    torch.manual_seed(0)
    fusion = CrossFusion(image_width=8, text_width=6, width=4, layers=1, heads=2, hidden_width=6, dropout=0.0)
    return VisionLanguageModel(vision=Cells(), text=ToyText(), fusion=fusion)


def _boxes(*rows: tuple[float, ...], label: tuple[int, ...] | None = None) -> Boxes:
    corners = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    return Boxes(xyxy=corners, label=torch.tensor(label if label is not None else range(len(rows)), dtype=torch.int64))


def _training_batch(rows: slice = slice(None)) -> Batch:
    """Six images of one caption, of which the last three have no box."""
    generator = torch.Generator().manual_seed(1)
    size = 6
    pixels = torch.randint(0, 256, (size, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    ids = torch.randint(1, 30, (size, 3), generator=generator)
    boxes = [_boxes((0.1, 0.2, 0.5, 0.9)), _boxes((0.0, 0.0, 0.3, 0.3), (0.5, 0.5, 0.6, 0.7), label=(0, 0)),
             _boxes((0.7, 0.1, 0.9, 0.3)), *[_boxes()] * 3]  # fmt: skip
    number = torch.arange(size)
    return Batch(
        id=number[rows], sample=number[rows], seed=number[rows], image=Image(pixels=pixels[rows]),
        caption=Text(ids=ids[rows], mask=torch.ones_like(ids[rows], dtype=torch.bool)), boxes=boxes[rows],
    )  # fmt: skip


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = _model().double()
        torch.manual_seed(1)
        self.task = Grounding(mode="box", width=4, weight=1.0).double()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = compute_features(self.model, batch, self.task.uses)
        loss = self.task(self.model, batch, features)
        return {"value": loss.value, **loss.logs}


def _gradients(step: nn.Module, batch: Batch) -> dict[str, Any]:
    values = step(batch)
    values["value"].backward()
    named = {name.removeprefix("module."): p.grad for name, p in step.named_parameters()}
    return {"values": {name: value.item() for name, value in values.items()}, "gradients": named}


def _measure(task: Grounding, model: VisionLanguageModel, batches: list[Batch]) -> dict[str, float | None]:
    task.eval()
    task.reset()
    task.prepare(model, None, None)
    for batch in batches:
        task.update(model, batch, compute_features(model, batch, task.uses))
    return task.compute(model)


def _on_rank(rank: int, world: int) -> list[Any]:
    shares = [(slice(0, 3), slice(3, 6)), (slice(0, 2), slice(2, 6))]  # the second rank has no object, or one
    steps = [_gradients(DistributedDataParallel(Step()), _training_batch(share[rank])) for share in shares]
    maps = [colour_batch(1.0)] if rank == 0 else [colour_batch(2.0), colour_batch(0.5)]
    return [*steps, _measure(_by_map(), colour_model(), maps)]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    one = _gradients(Step(), _training_batch())
    assert one["values"]["value"] == pytest.approx(one["values"]["l1"] + one["values"]["giou"])
    assert all(gradient is not None for gradient in one["gradients"].values())
    measured = _measure(_by_map(), colour_model(), [colour_batch(factor) for factor in (1.0, 2.0, 0.5)])
    for found in run_processes(2, _on_rank, tmp_path):
        for two in found[:2]:
            for name, value in one["values"].items():
                assert two["values"][name] == pytest.approx(value, abs=1e-10), name
            for name, gradient in one["gradients"].items():
                torch.testing.assert_close(two["gradients"][name], gradient, rtol=0, atol=1e-10, msg=name)
        assert found[2] == pytest.approx(measured, abs=1e-10)


def test_a_batch_without_any_box_has_no_loss_but_gradients_of_zero() -> None:
    found = _gradients(Step(), _training_batch(slice(3, 6)))
    assert found["values"]["value"] == 0
    assert all(float(gradient.abs().max()) == 0 for gradient in found["gradients"].values())


def test_boxes_are_learned() -> None:
    torch.manual_seed(0)
    step, batch = Step(), _training_batch(slice(0, 3))
    optimizer = torch.optim.Adam(step.parameters(), lr=0.02)
    first = step(batch)["value"].item()
    for _ in range(60):
        optimizer.zero_grad()
        step(batch)["value"].backward()
        optimizer.step()
    assert step(batch)["value"].item() < 0.25 * first
    assert step(batch)["accuracy"].item() == 100


def colour_model() -> VisionLanguageModel:
    return VisionLanguageModel(vision=Channels(), text=ToyText())


def colour_batch(stretch: float, mirrored: bool = False) -> Batch:
    """A red thing at the left and a blue one at the lower right of a photo of 32 x 32·stretch pixels, squashed to 16 x 16."""
    pixels = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    pixels[0, 0, 0:8, 0:4] = 200
    pixels[0, 2, 8:16, 8:16] = 100
    boxes = ((0, 0, 8, 16 * stretch), (16, 16 * stretch, 32, 32 * stretch))
    in_view = [(0.0, 0.0, 0.25, 0.5), (0.5, 0.5, 1.0, 1.0)]
    frame = torch.tensor([[0.0, 0.0, 32.0, 32.0 * stretch]])
    if mirrored:
        pixels, frame = pixels.flip(-1), torch.tensor([[32.0, 0.0, -32.0, 32.0 * stretch]])
        in_view = [(0.75, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0)]
    sample = Sample(id=5, sample=0, image=Path("a.png"), captions=("red", "blue"), boxes=boxes)
    ids = torch.tensor([[[0, 1], [2, 1]]])
    number = torch.tensor([5])
    mask = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    mask[0, 0:8, 0:4], mask[1, 8:16, 8:12] = True, True
    return Batch(
        id=number, sample=torch.tensor([0]), seed=number, image=Image(pixels=pixels), raw=(sample,), frame=frame,
        caption=Text(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool)),
        boxes=[replace(_boxes(*in_view), mask=mask)],
    )  # fmt: skip


def _by_map(**settings: Any) -> Grounding:
    task = Grounding(mode="map", **settings)
    task.linked = {"itm": Colour()}
    return task


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_map_of_a_score_finds_the_thing(mirrored: bool) -> None:
    figures = _measure(_by_map(), colour_model(), [colour_batch(4.0, mirrored)])
    assert {figures[name] for name in ("accuracy", "accuracy_pixel", "mean_iou", "merged_r1", "any_r5")} == {100.0}
    assert figures["other_phrase_accuracy"] == 0
    assert figures["random_accuracy"] in (0, 50, 100)
    assert figures["phrases"] == 2


def test_masks_are_measured_from_the_map() -> None:
    figures = _measure(_by_map(), colour_model(), [colour_batch(1.0)])
    boundary = figures["miou"]
    assert boundary is not None
    assert 50 < boundary < 100  # the second mask is half of what is blue
    assert figures["oiou"] is not None
    assert figures["oiou"] < boundary  # which is the larger one


def test_another_map_of_candidates(tmp_path: Path) -> None:
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([{"image_id": 5, "bbox": [0, 0, 8, 12]}, {"image_id": 5, "bbox": [20, 20, 12, 12]}]))
    task = _by_map(candidates=path, results_file=tmp_path / "out.json")
    figures = _measure(task, colour_model(), [colour_batch(1.0)])
    assert figures["accuracy"] == 100
    assert figures["mean_iou"] == pytest.approx(100 * (12 / 16 + 144 / 256) / 2)
    written = json.loads((tmp_path / "out.json").read_text())
    assert [record["box"] for record in written] == [[0, 0, 8, 12], [20, 20, 32, 32]]
    assert [record["phrase"] for record in task.figures()["grounded"]] == ["red", "blue"]  # type: ignore[union-attr, index]


@pytest.mark.parametrize("mirrored", [False, True])
def test_prediction_without_candidates_is_in_the_pixels_of_the_photo(mirrored: bool) -> None:
    batch = replace(colour_batch(4.0, mirrored), raw=None, boxes=None)
    with torch.inference_mode():
        (record,) = _by_map().predict(colour_model(), batch)
    assert record["boxes"] == [[0, 0, 8, 64], [16, 64, 32, 128]]


def test_the_box_head_predicts_in_the_pixels_of_the_photo() -> None:
    model, batch = _model().eval(), colour_batch(4.0)
    task = Grounding(mode="box", width=4).eval()
    nn.init.zeros_(task.head.layers[3].weight)  # type: ignore[union-attr]
    with torch.no_grad():
        task.head.layers[3].bias.copy_(torch.tensor([0.25, 0.5, 0.25, 0.125]).logit())  # type: ignore[union-attr]
    (record,) = task.predict(model, batch)
    torch.testing.assert_close(torch.tensor(record["boxes"]), torch.tensor([[4.0, 56.0, 12.0, 72.0]] * 2))
    figures = _measure(task, model, [batch])
    assert set(figures) == {"accuracy", "accuracy_pixel", "mean_iou", "merged_r1", "any_r1", "phrases"}


class ColourDetector(Detector):
    """Knows where each colour is."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.scores = nn.Module()
        self.scores.embed = None  # type: ignore[assignment]

    def forward(self, tokens: Tokens, queries: Tensor | None = None) -> Proposals:
        boxes = torch.tensor([[[0.75, 0.75, 0.5, 0.5], [0.125, 0.25, 0.25, 0.5], [0.5, 0.5, 1.0, 1.0]]])
        return Proposals(boxes=boxes, logits=torch.tensor([[[-3.0, 2.0], [1.0, 0.0], [0.5, 0.1]]]), grid=(1, 3))


def test_a_detector_answers_phrases_and_ranks_boxes() -> None:
    task = Grounding(mode="detector")
    task.linked = {"detection": SimpleNamespace(detector=ColourDetector(), levels=("inner",))}
    assert task.levels == ("inner",)
    model, batch = colour_model(), colour_batch(2.0)
    model.projection = LinearProjection(image_width=3, text_width=6, width=5)
    task.reset()
    task.update(model, batch, Features(image=model.encode_image(require(batch.image))))
    figures = task.compute(model)
    assert [figures[name] for name in ("accuracy", "merged_r1", "any_r5", "mean_iou", "phrases")] == [
        100,
        100,
        100,
        100,
        2,
    ]


def test_phrases_without_a_box_are_left_out() -> None:
    batch = colour_batch(1.0)
    assert batch.raw is not None
    sample = replace(batch.raw[0], boxes=((0, 0, 8, 16),), box_captions=(0,))
    task = _by_map()
    figures = _measure(task, colour_model(), [replace(batch, raw=(sample,))])
    assert figures["phrases"] == 1
    assert figures["other_phrase_accuracy"] is None
    with pytest.raises(ValueError, match="no phrase has a box"):
        _measure(_by_map(), colour_model(), [replace(batch, raw=(replace(sample, boxes=(), box_captions=()),))])


def test_matching_can_be_explained() -> None:
    model, task = _model().eval(), _by_map()
    task.linked = {"itm": ITM(width=4).eval()}
    figures = _measure(task, model, [colour_batch(1.0)])
    assert figures["phrases"] == 2
    task.linked = {"itm": Objective()}
    with pytest.raises(ValueError, match="no score"):
        _measure(task, model, [colour_batch(1.0)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"mode": "boxes"}, "choose box, map or detector"), ({"mode": "box"}, "width"), ({"weight": 1.0}, "has no loss")],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grounding(**settings)


def test_needs_and_heads_follow_the_mode() -> None:
    assert Grounding(mode="map", score="itc").heads == ("itc",)
    assert Grounding(mode="detector", detector="other").heads == ("other",)
    assert Grounding(mode="box", width=4).heads == ()
    assert Grounding.score is Objective.score is type(Grounding()).score
    assert callable(Grounding(score="itc").score)  # the setting of this name does not hide the method
