from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.processes import run_processes
from tests.towers import ToyText
from vlp.metrics.coco import evaluate
from vlp.models.dense.boxes import to_centres
from vlp.models.dense.detection_loss import detection_loss
from vlp.models.dense.detector import Detector, PlaceDetector, Proposals
from vlp.models.dense.targets import phrase_targets
from vlp.models.features import compute_features, flatten_captions
from vlp.models.projection.linear import LinearProjection
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Boxes, Image, Text, Tokens
from vlp.system.errors import UserError
from vlp.tasks.detection import Detection

NAMES = ("circle", "ring", "moon")


@dataclasses.dataclass
class _Data:
    """What the task takes of a data module.  file: the official ground truth."""

    file: Path | None = None
    class_names: tuple[str, ...] = NAMES
    category_ids: tuple[int, ...] = (2, 5, 90)
    name: str = "toys"

    def ground_truth(self, split: str) -> Path:
        assert self.file is not None
        return self.file


def _tokenizer(texts: list[str], **_: object) -> Text:
    ids = torch.tensor([[1 + sum(map(ord, text)) % 29] for text in texts])
    return Text(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))


def _model(*, text: bool = False) -> VisionLanguageModel:
    torch.manual_seed(0)
    vision = SmallCnn(image_size=16, channels=4)
    projection = LinearProjection(image_width=32, text_width=6, width=5) if text else None
    return VisionLanguageModel(vision=vision, text=ToyText() if text else None, projection=projection)


def _task(**settings: Any) -> Detection:
    torch.manual_seed(1)
    head = functools.partial(PlaceDetector, **settings.pop("head", {}))
    return Detection(**{"head": head, "states_width": 32, "embed_width": 5, "class_names": NAMES, **settings})


def _batch(rows: slice = slice(None)) -> Batch:
    """Four images of 16 × 16 pixels; the last two show nothing."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (4, 3, 16, 16), generator=generator, dtype=torch.uint8)
    corners = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.5, 0.4, 0.9, 1.0], [0.0, 0.0, 1.0, 1.0]])
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[:, 2:8, 2:8] = True
    boxes = [
        Boxes(xyxy=corners[first:last], label=torch.arange(3)[first:last], mask=masks[first:last])
        for first, last in ((0, 2), (2, 3), (0, 0), (0, 0))
    ]
    ids = torch.arange(4)[rows]
    frame = torch.tensor([0.0, 0, 16, 16]).expand(4, 4)
    return Batch(
        id=ids + 1, sample=ids, seed=ids, image=Image(pixels=pixels[rows]), boxes=boxes[rows], frame=frame[rows]
    )


@pytest.mark.parametrize("names", ["classes", "texts"])
def test_learns_a_batch_by_heart(names: str) -> None:
    model, task, batch = _model(text=names == "texts"), _task(names=names, head={"mask_channels": 8, "up": 1}), _batch()
    task.prepare(model, _tokenizer, _Data())
    optimizer = torch.optim.Adam([*model.parameters(), *task.parameters()], lr=5e-3)
    losses = []
    for step in range(25):
        loss = task(model, batch, compute_features(model, batch, task.uses, step=step))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        losses.append(loss.value.item())
    assert set(loss.logs) == {"class", "l1", "giou", "mask", "dice"}
    assert losses[-1] < losses[0] / 2
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_a_batch_without_things_reaches_every_parameter() -> None:
    model, task, batch = _model(), _task(head={"mask_channels": 8}), _batch(slice(2, 4))
    task.prepare(model, None, _Data())
    loss = task(model, batch, compute_features(model, batch, task.uses))
    loss.value.backward()
    assert loss.value.item() > 0
    assert all(parameter.grad is not None for parameter in task.parameters())


class _Given(nn.Module):
    """In place of a detector: proposals that the test gives, by the first pixel of each image."""

    def __init__(self, proposals: list[tuple[list[list[float]], list[list[float]]]], **pixels: Tensor) -> None:
        super().__init__()
        self.given, self.maps, self.pixels = proposals, pixels, pixels.get("pixels")

    def forward(self, tokens: Tokens, queries: Tensor | None = None) -> Proposals:
        chosen = [self.given[int(index)] for index in tokens.states[:, 0, 0]]
        boxes, scores = (torch.tensor([row[part] for row in chosen]) for part in (0, 1))
        pixels = {name: value.expand(len(chosen), *value.shape[1:]) for name, value in self.maps.items()}
        return Proposals(boxes=to_centres(boxes), logits=scores.logit(), grid=(1, 2), **pixels)


def _tokens(rows: list[int]) -> Tokens:
    states = torch.tensor(rows).float()[:, None, None].expand(-1, 2, 32)
    return Tokens(states=states, pooled=states[:, 0], grid=(1, 2))


def _measured(task: Detection, data: _Data, rows: list[int], frames: Tensor) -> dict[str, float | None]:
    model = _model()
    task.eval().reset()
    task.prepare(model, _tokenizer, data)
    features = dataclasses.replace(compute_features(model, _batch(slice(1)), ()), image=_tokens(rows))
    image = Image(pixels=torch.zeros(len(rows), 3, 8, 8, dtype=torch.uint8))
    ids = torch.tensor(rows)
    if rows:
        task.update(model, Batch(id=ids + 1, sample=ids, seed=ids, image=image, frame=frames[rows]), features)
    return task.compute(model)


def _truth(path: Path) -> Path:
    """A photo of 400 × 100 pixels with a circle and a moon, and one of 100 × 400 with a ring; all pixels of the boxes."""
    things = [(1, 2, [40, 20, 80, 60]), (1, 90, [200, 0, 120, 100]), (2, 5, [10, 300, 50, 80])]
    masks = []
    for image, _, (left, top, width, height) in things:
        mask = np.zeros((100, 400) if image == 1 else (400, 100), dtype=bool)
        mask[top : top + height, left : left + width] = True
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[~mask[0, 0]], mask.flatten("F"), [~mask[-1, -1]]]))))
        masks.append({"size": list(mask.shape), "counts": [0, *runs.tolist()] if mask[0, 0] else runs.tolist()})
    truth = {
        "images": [{"id": 1, "width": 400, "height": 100}, {"id": 2, "width": 100, "height": 400}],
        "categories": [{"id": i, "name": name} for i, name in zip((2, 5, 90), NAMES, strict=True)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
             "segmentation": mask}
            for i, ((image, category, box), mask) in enumerate(zip(things, masks, strict=True), start=1)
        ],
    }  # fmt: skip
    path.write_text(json.dumps(truth))
    return path


# letterboxed into a square: of 400 pixels, with the bars below and to the right
FRAMES = torch.tensor([[0.0, 0, 400, 400], [0.0, 0, 400, 400]])
PROPOSALS = [
    ([[0.1, 0.05, 0.3, 0.2], [0.5, 0.0, 0.8, 0.25]], [[0.9, 0.1, 0.1], [0.1, 0.1, 0.8]]),
    ([[0.025, 0.75, 0.15, 0.95], [0.5, 0.5, 1.0, 1.0]], [[0.1, 0.7, 0.1], [0.1, 0.1, 0.1]]),
]


def _given(**settings: Any) -> Detection:
    task = _task(**settings)
    task.detector = _Given(PROPOSALS)  # type: ignore[assignment]
    return task


@pytest.mark.parametrize(("package", "weight"), [("scipy.optimize", 1.0), ("faster_coco_eval", 0.0)])
def test_a_missing_package_is_named_before_the_first_step(
    package: str, weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, data = _task(weight=weight), _Data(_truth(tmp_path / "truth.json"))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"run pip install 'vlp\[detect\]'"):
        task.prepare(_model(), _tokenizer, data)


def test_figures_are_of_the_photos_pixels(tmp_path: Path) -> None:
    """What is found in letterboxed photos of 1:4 lands on their boxes, under the official ids; the same mirrored."""
    data = _Data(_truth(tmp_path / "truth.json"))
    figures = _measured(_given(), data, [0, 1], FRAMES)
    assert figures["ap"] == pytest.approx(100.0)
    assert figures["ap_small"] is None
    mirrored = _given()
    flip = [
        ([[1 - right, top, 1 - left, bottom] for left, top, right, bottom in boxes], scores)
        for boxes, scores in PROPOSALS
    ]
    mirrored.detector = _Given(flip)  # type: ignore[assignment]
    assert _measured(mirrored, data, [0, 1], torch.tensor([[400.0, 0, -400, 400]] * 2))["ap"] == pytest.approx(100.0)
    assert _measured(_given(), data, [0, 1], torch.tensor([[0.0, 0, 400, 100], [0.0, 0, 100, 400]]))["ap"] == 0.0
    assert _measured(_given(), data, [0], FRAMES)["ap"] == pytest.approx(
        100.0
    )  # photos that were not seen do not count


def test_result_files_are_official(tmp_path: Path) -> None:
    """Masks too: of each place one half of the image."""
    data = _Data(_truth(tmp_path / "truth.json"))
    task = _given(results_file=tmp_path / "out/results.json")
    halves = torch.full((1, 2, 4, 4), -1.0)
    halves[0, 0, :, :2], halves[0, 1, :, 2:] = 1.0, 1.0
    task.detector = _Given(PROPOSALS, pixels=halves, embeddings=torch.eye(2)[None])  # type: ignore[assignment]
    figures = _measured(task, data, [0, 1], FRAMES)
    boxes, masks = (json.loads((tmp_path / f"out/{name}.json").read_text()) for name in ("results", "results_masks"))
    again = evaluate(data.ground_truth("val"), boxes)["ap"]
    assert again is not None
    assert figures["ap"] == pytest.approx(100 * again)
    best = max(boxes, key=lambda record: record["score"])
    assert (best["image_id"], best["category_id"]) == (1, 2)
    assert best["bbox"] == pytest.approx([40, 20, 80, 60], abs=1e-3)
    assert {record["segmentation"]["size"][0] for record in masks} == {100, 400}
    assert all("bbox" not in record for record in masks)
    assert figures["mask_ap"] == pytest.approx(
        100 * (evaluate(data.ground_truth("val"), masks, kind="segm")["ap"] or 0)
    )
    # only the moon's overlaps its mask, by 120 of 200 columns: right at 3 of 10 thresholds, in one class of three
    assert figures["mask_ap"] == pytest.approx(10.0)


def test_base_and_novel_classes_are_measured_apart(tmp_path: Path) -> None:
    data = _Data(_truth(tmp_path / "truth.json"))
    task = _given(novel_classes=["ring"])
    wrong = [PROPOSALS[0], ([[0.5, 0.5, 1.0, 1.0]] * 2, PROPOSALS[1][1])]
    task.detector = _Given(wrong)  # type: ignore[assignment]
    figures = _measured(task, data, [0, 1], FRAMES)
    assert (figures["ap_base"], figures["ap_novel"]) == (pytest.approx(100), 0)
    assert figures["ap"] == pytest.approx(200 / 3)
    only = _given(novel_classes=["ring"], base_classes=["moon"])
    only.detector = _Given(wrong)  # type: ignore[assignment]
    assert _measured(only, data, [0, 1], FRAMES)["ap"] == pytest.approx(50)


def test_classes_that_the_file_marks_are_novel_whatever_it_calls_them(tmp_path: Path) -> None:
    """LVIS writes "bow_(weapon)" where the class is called "bow (weapon)"."""
    data = _Data(_truth(tmp_path / "truth.json"))
    content = json.loads((tmp_path / "truth.json").read_text())
    for category, letter in zip(content["categories"], "frc", strict=True):
        category |= {"name": f"{category['name']}_(thing)", "frequency": letter}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    task = _given(novel_classes="r")
    task.detector = _Given([PROPOSALS[0], ([[0.5, 0.5, 1.0, 1.0]] * 2, PROPOSALS[1][1])])  # type: ignore[assignment]
    figures = _measured(task, data, [0, 1], FRAMES)
    assert (figures["ap_base"], figures["ap_novel"]) == (pytest.approx(100), 0)


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    """The head knows a class more than the data, in another order."""
    task = _given(class_names=("star", "moon", "circle", "ring"))
    order = [2, 0, 1]  # of the head's last three among the data's
    task.detector = _Given([(b, [[0.95, *(row[i] for i in order)] for row in s]) for b, s in PROPOSALS])  # type: ignore[assignment]
    assert _measured(task, _Data(_truth(tmp_path / "truth.json")), [0, 1], FRAMES)["ap"] == pytest.approx(100)


def _of_rank(rank: int, world: int, file: str) -> dict[str, float | None]:
    return _measured(_given(), _Data(Path(file)), [1, 0][rank : rank + 1] if world == 2 else [], FRAMES)


def test_two_processes_measure_as_one(tmp_path: Path) -> None:
    file = _truth(tmp_path / "truth.json")
    expected = _measured(_given(), _Data(file), [0, 1], FRAMES)
    for found in run_processes(2, _of_rank, tmp_path, str(file)):
        assert found == pytest.approx(expected, abs=1e-10)


def test_an_error_of_the_first_process_is_raised_by_all(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match="2 evaluated images are not in the ground truth"):
        _measured(_given(), _Data(tmp_path / "truth.json"), [0, 1], FRAMES)


def test_predictions_name_what_is_probable(tmp_path: Path) -> None:
    task, model = _given(threshold=0.75), _model()
    task.prepare(model, None, _Data())
    found = task.find(model, _tokens([0, 1]), Image(pixels=torch.zeros(2, 3, 8, 8)), FRAMES)
    assert [things.label.tolist() for things in found] == [[0, 2], []]
    model.encode_image = lambda image, levels: _tokens([0, 1])  # type: ignore[method-assign]
    batch = Batch(
        id=torch.arange(2),
        sample=torch.arange(2),
        seed=torch.arange(2),
        image=Image(pixels=torch.zeros(2, 3, 8, 8)),
        frame=FRAMES,
    )
    first, second = task.predict(model, batch)
    circle, moon = first["things"]  # type: ignore[misc]
    assert (circle["label"], moon["label"]) == ("circle", "moon")
    assert circle["box"] == pytest.approx([40, 20, 120, 80], abs=1e-3)
    assert circle["score"] == pytest.approx(0.9)
    assert second == {"sample": 1, "things": []}


def test_texts_ask_for_other_names() -> None:
    """ "hoop" instead of "ring"; evaluation asks for the data's classes, in their order."""
    model = _model(text=True)
    task = _task(names="texts", texts={"ring": "hoop"}).eval()
    task.prepare(model, _tokenizer, _Data(class_names=("ring", "star"), category_ids=(1, 2)))
    tokens = model.encode_image(Image(pixels=torch.zeros(1, 3, 16, 16, dtype=torch.uint8)))
    logits = task.propose(model, tokens).logits
    queries = model.embed_text(model.encode_text(_tokenizer(["a hoop", "a star"])))
    torch.testing.assert_close(logits, task.detector(tokens, queries).logits)
    with pytest.raises(UserError, match="has no class ring"):
        task.prepare(model, _tokenizer, _Data(class_names=("star",), category_ids=(1,)))


def test_equal_phrases_of_a_batch_go_through_the_text_tower_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = _model(text=True), _task(names="texts", queries="phrases", weight=1.0)
    ids = torch.tensor([[[7], [9]], [[9], [0]], [[4], [0]], [[7], [4]]])
    boxes = [
        Boxes(xyxy=torch.rand(len(real), 4).sort(-1).values, label=torch.tensor(real, dtype=torch.int64))
        for real in ([0, 1], [0], [], [1])
    ]
    batch = dataclasses.replace(_batch(), caption=Text(ids=ids, mask=ids > 0), boxes=boxes)
    encoded: list[Text] = []
    encode = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda text: encoded.append(text) or encode(text))
    loss = task(model, batch, compute_features(model, batch, task.uses)).value
    assert [text.ids.tolist() for text in encoded] == [[[7], [9], [4]]]  # of six phrases
    text, owner = flatten_captions(batch)
    extent, embed = torch.ones(4, 2), model.embed_text(encode(text))
    targets, queries = phrase_targets(boxes, extent, text=text, owner=owner, embed=embed, ids=batch.id)
    proposals = task.detector(model.encode_image(batch.image), queries)
    torch.testing.assert_close(loss, detection_loss(proposals, targets, task.losses)[0])
    loss.backward()
    assert all(bool(parameter.grad.any()) for parameter in model.text.parameters())


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="names are classes or texts"):
        _task(names="words")
    with pytest.raises(UserError, match="queries names or"):
        _task(queries="phrases")
    with pytest.raises(UserError, match="no losses focal"):
        _task(losses={"focal": 1.0})
    with pytest.raises(UserError, match="give an IoU from 0 to 1"):
        _task(nms=1.5)
    task = _task()
    with pytest.raises(UserError, match="no class star, which toys has"):
        task.prepare(_model(), None, _Data(class_names=("star",), category_ids=(1,)))


@pytest.mark.parametrize("negatives", [None, 0])
def test_a_step_asks_for_its_own_names_and_some_others(negatives: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = _model(text=True), _task(names="texts", negatives=negatives, novel_classes=["moon"], weight=1.0)
    task.prepare(model, _tokenizer, _Data())
    asked: list[int] = []

    def count(self: Detector, tokens: Tokens, queries: Tensor) -> Proposals:
        asked.append(len(queries))
        return forward(self, tokens, queries)

    forward = Detector.forward
    monkeypatch.setattr(Detector, "forward", count)
    for rows in (slice(2), slice(2, 4)):  # a circle, a ring and a moon that training does not see; nothing
        batch = _batch(rows)
        task(model, batch, compute_features(model, batch, task.uses)).value.backward()
    assert asked == ([2, 2] if negatives is None else [2, 0])
