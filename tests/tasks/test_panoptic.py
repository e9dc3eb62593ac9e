"""Panoptic segmentation: it learns, its figures are those of the files, and two processes equal one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.processes import run_processes
from tests.tasks.test_segmentation import TOKENIZER, model
from vlp.data.pixel_labels import read_segment_ids, view_labels
from vlp.data.view import View
from vlp.metrics.panoptic_quality import count_matches, panoptic_quality
from vlp.models.dense.panoptic import write_panoptic_png
from vlp.models.dense.segments import QueriedSegments
from vlp.models.features import compute_features
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Image, Sample, Segment, Segments
from vlp.system.errors import UserError
from vlp.tasks.panoptic import Panoptic

NAMES = ("red circle", "blue square", "picture")


@dataclasses.dataclass
class Data:
    segment_names: tuple[str, ...] | None = NAMES
    segment_ids: tuple[int, ...] | None = (1, 7, 200)
    segment_things: tuple[bool, ...] | None = (True, True, False)
    name: str = "toy"


def task(**options: Any) -> Panoptic:
    torch.manual_seed(1)
    settings = {"queries": 6, "width": 16, "blocks": 2, "heads": 2, "up": 2, "points": 64, "weight": 1.0, **options}
    made = Panoptic(segment_names=NAMES, states_width=16, embed_width=10, **settings).double()
    made.prepare(model(), TOKENIZER, Data())
    return made


def photo(row: int) -> tuple[np.ndarray, np.ndarray, tuple[Segment, ...]]:
    """Pixels, ids and segments: two squares on a ground; the last photo shows nothing at all."""
    pixels, ids = np.full((16, 16, 3), 128, dtype=np.uint8), np.full((16, 16), 70_000)
    if row == 3:
        return pixels, np.zeros((16, 16), dtype=np.int64), ()
    for number, (top, left) in enumerate(((1 + row, 1), (8 - row, 9))):
        label = (row + number) % 2
        pixels[top : top + 6, left : left + 6] = 0
        pixels[top : top + 6, left : left + 6, label] = 255
        ids[top : top + 6, left : left + 6] = 300 * (number + 1)
    labels = {300: row % 2, 600: (row + 1) % 2, 70_000: 2}
    return pixels, ids, tuple(Segment(number, label) for number, label in labels.items())


def batch(folder: Path, rows: range = range(4)) -> Batch:
    samples, pixels, segments = [], [], []
    for row in rows:
        image, ids, listed = photo(row)
        write_panoptic_png(folder / f"{row}.png", ids)
        sample = Sample(
            id=row, sample=row, image=folder / f"{row}.jpg", panoptic=folder / f"{row}.png", segments=listed
        )
        shown = view_labels(sample, View(left=0, top=0, width=16, height=16, size=(16, 16)), (16, 16))[1]
        assert isinstance(shown, Segments)
        samples.append(sample), pixels.append(torch.from_numpy(image).permute(2, 0, 1)), segments.append(shown)
    index = torch.tensor(list(rows))
    frame = torch.tensor([[0.0, 0.0, 16.0, 16.0]]).repeat(len(index), 1)
    return Batch(
        id=index, sample=index, seed=index, image=Image(pixels=torch.stack(pixels)), frame=frame, raw=tuple(samples),
        segments=segments,
    )  # fmt: skip


def loss(ours: Panoptic, made: VisionLanguageModel, data: Batch) -> torch.Tensor:
    return ours(made, data, compute_features(made, data, ours.uses)).value


@pytest.mark.parametrize(("names", "place_queries"), [("classes", False), ("texts", False), ("classes", True)])
def test_it_learns_four_pictures(tmp_path: Path, names: str, place_queries: bool) -> None:
    made, data = model().float(), batch(tmp_path)
    ours = task(names=names, place_queries=place_queries, results_folder=tmp_path / "results").float()
    parameters = [*ours.parameters(), *made.vision.parameters(), *made.text.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    first = float(loss(ours, made, data))
    for _ in range(150):
        optimizer.zero_grad()
        value = loss(ours, made, data)
        value.backward()
        optimizer.step()
    assert float(value) < first / 2
    ours.eval(), made.train()  # with the statistics of the batch, which four pictures are too few to average
    ours.update(made, data, compute_features(made, data, ours.uses))
    figures = ours.compute(made)
    assert figures["pq"] is not None
    assert figures["pq"] > 50
    assert figures.keys() >= {"sq", "rq", "pq_things", "pq_stuff", "pq_red_circle"}
    written = json.loads((tmp_path / "results/panoptic.json").read_text())["annotations"]
    assert [entry["image_id"] for entry in written] == [0, 1, 2, 3]
    counts = torch.zeros(len(NAMES), 4, dtype=torch.float64)
    for entry, sample in zip(written, data.raw, strict=True):
        ids = read_segment_ids(tmp_path / "results/panoptic" / entry["file_name"])
        assert set(np.unique(ids).tolist()) - {0} == {info["id"] for info in entry["segments_info"]}
        segments = [Segment(info["id"], (1, 7, 200).index(info["category_id"])) for info in entry["segments_info"]]
        counts += count_matches(read_segment_ids(sample.panoptic), sample.segments, ids, segments, len(NAMES))
    scored = panoptic_quality(counts).mean()  # of the files that a benchmark's server gets
    assert {name: figures[name] for name in scored} == pytest.approx(scored)
    records = ours.predict(made, data)
    assert all(0 < share <= 1 for record in records for _, share in record["segments"])


def test_true_segments_that_are_found_have_quality_100_also_with_classes_in_another_order(tmp_path: Path) -> None:
    made, ours, data = model(), task(weight=0.0), batch(tmp_path)
    order = (2, 0, 1)
    renamed = Data(
        segment_names=tuple(NAMES[i] for i in order), segment_things=(False, True, True), segment_ids=(5, 6, 8)
    )
    raw = tuple(
        dataclasses.replace(s, segments=tuple(x._replace(label=order.index(x.label)) for x in s.segments))
        for s in data.raw
    )
    for source, samples in ((Data(), data.raw), (renamed, raw)):
        ours.reset()
        ours.prepare(made, TOKENIZER, source)
        classes, masks = torch.full((4, 3, 4), -9.0), torch.full((4, 3, 16, 16), -9.0)
        classes[..., 3] = 0
        for row, sample in enumerate(data.raw):
            ids = read_segment_ids(sample.panoptic)
            for query, segment in enumerate(sample.segments):
                classes[row, query, segment.label] = 9
                masks[row, query][torch.from_numpy(ids == segment.id)] = 9
        found = QueriedSegments(classes=classes, masks=masks)
        ours.read = lambda model, image, tokens, found=found: found
        ours.update(made, dataclasses.replace(data, raw=samples), compute_features(made, data, ours.uses))
        figures = ours.compute(made)
        assert {figures[name] for name in ("pq", "sq", "rq", "pq_things", "pq_stuff")} == {100}


def test_batches_without_files_are_refused(tmp_path: Path) -> None:
    made, ours, data = model(), task(), dataclasses.replace(batch(tmp_path), raw=None)
    with pytest.raises(UserError, match="do not name them"):
        ours.update(made, data, compute_features(made, data, ours.uses))
    with pytest.raises(UserError, match="must be the same classes"):
        ours.prepare(made, TOKENIZER, Data(segment_names=("cat", "dog", "sky")))


def _gradients(rank: int, world: int, folder: str, place_queries: bool) -> dict[str, Any]:
    """The last process has the photo without a segment."""
    made, ours = model().eval(), task(place_queries=place_queries).eval()
    rows = range(4) if world == 1 else (range(3), range(3, 4))[rank]
    data = batch(Path(folder) / f"{world}_{rank}", rows)

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = ours

        def forward(self) -> torch.Tensor:
            return loss(ours, made, data)

    step: torch.nn.Module = Step()
    if world > 1:
        step = DistributedDataParallel(step)
    value = step()
    value.backward()
    with torch.no_grad():
        ours.threshold = 0.3
        ours.update(made, data, compute_features(made, data, ours.uses))
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    return {"loss": value.detach(), "figures": ours.compute(made), "gradients": gradients}


@pytest.mark.parametrize("place_queries", [False, True])
def test_two_processes_equal_one(tmp_path: Path, place_queries: bool) -> None:
    one = _gradients(0, 1, str(tmp_path), place_queries)
    for result in run_processes(2, _gradients, tmp_path / "out", str(tmp_path), place_queries):
        torch.testing.assert_close(result["loss"], one["loss"], rtol=1e-10, atol=1e-10)
        assert result["figures"] == {
            name: value if value is None else pytest.approx(value, abs=1e-10) for name, value in one["figures"].items()
        }
        for name, gradient in one["gradients"].items():
            torch.testing.assert_close(result["gradients"][name], gradient, rtol=1e-10, atol=1e-10)


def test_the_weight_of_the_loss_may_have_a_schedule_beside_points_of_masks() -> None:
    ours = task(weight=[[0.0, 0.0], [1.0, 2.0]])
    assert ours.weight_at(0.5) == 1
