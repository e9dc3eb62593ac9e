from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.metrics.test_recall import recall_at_k
from vlp.metrics.recall import chance_recall, update_ties
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Image, Sample, Text
from vlp.tasks.retrieval import Retrieval

COUNTS = [1, 3, 5, 2, 5, 5, 4, 1, 2, 5, 3]  # captions of each of 11 images


def batches(sizes: list[int]) -> list[tuple[Batch, Features]]:
    """The same 11 images with 36 captions, cut into batches of these sizes."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    image = F.normalize(torch.randn(len(COUNTS), 8, generator=generator), dim=-1)
    text = F.normalize(image[owner] + 0.8 * torch.randn(len(owner), 8, generator=generator), dim=-1)
    text[5:9] = text[5]
    made, start = [], 0
    for size in sizes:
        rows = range(start, start + size)
        mine = (owner >= start) & (owner < start + size)
        index = torch.tensor(list(rows))
        raw = tuple(
            Sample(id=7 * i, sample=i, image=Path(f"{i}.png"), captions=tuple(f"{i}.{j}" for j in range(COUNTS[i])))
            for i in rows
        )
        words = torch.arange(1, len(owner) + 1)
        words[5:9] = 6  # the texts of equal embeddings are equal
        ids = nn.utils.rnn.pad_sequence([words[owner == i] for i in rows], batch_first=True)[:, :, None]
        pixels = index.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
        batch = Batch(
            id=index * 7,
            sample=index,
            seed=index,
            raw=raw,
            image=Image(pixels=pixels),
            caption=Text(ids=ids, mask=ids > 0),
        )
        features = Features(image_embed=image[index], text_embed=text[mine], owner=owner[mine] - start)
        made.append((batch, features))
        start += size
    return made


def measure(parts: list[tuple[Batch, Features]]) -> tuple[dict[str, float], dict[str, object]]:
    model = VisionLanguageModel(vision=nn.Linear(1, 1))
    task = Retrieval()
    task.reset()
    for batch, features in parts:
        task.update(model, batch, features)
    return task.compute(model), task.figures()


def joined() -> dict[str, float]:
    ((batch, features),) = batches([11])
    ids = batch.id, batch.id[features.owner]
    chance = {f"chance_{name}": value for name, value in chance_recall(*ids).items() if "rank" not in name}
    return recall_at_k(features.image_embed, features.text_embed, *ids) | chance


def test_batches_are_joined_and_reset_forgets() -> None:
    figures, _ = measure(batches([4, 6, 1]))
    assert figures == joined() | {"images": 11, "captions": 36}
    assert 0 < figures["text_to_image_r1"] < 100
    task = Retrieval()
    model = VisionLanguageModel()
    for _ in range(2):
        task.reset()
        task.update(model, *batches([11])[0])
        assert task.compute(model)["captions"] == 36


def test_two_processes_equal_one(tmp_path: Path) -> None:
    shares = [[[4, 6], [1]], [[3, 3, 3, 2], []], [[], [11]]]  # batches of each rank; some rank sees none at all
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, __file__, str(tmp_path / "store"), json.dumps(shares)]
    processes = [
        subprocess.Popen([*arguments, str(rank)], env=environment, stdout=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    outputs = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    assert outputs[0] == outputs[1] == [[joined() | {"images": 11, "captions": 36}, 11, 8]] * len(shares)


def test_material_for_pictures() -> None:
    results, figures = measure(batches([5, 6]))
    assert results["chance_text_to_image_r1"] == pytest.approx(100 / 11)
    matrix = figures["similarity"]
    assert matrix["captions"] == [f"{i}.0" for i in range(11)]
    assert matrix["images"][3] == "3.png"
    assert matrix["scores"].shape == (11, 11)
    for example in figures["text_to_image"]:
        image, _, right = example["results"][0]
        assert len(example["results"]) == 5
        assert right == (image.removesuffix(".png") == example["query"].split(".")[0])
        assert right == (example["rank"] == 1)
    assert {example["rank"] == 1 for example in figures["image_to_text"]} == {True, False}


def test_an_image_without_captions_is_an_error() -> None:
    ((batch, features),) = batches([11])
    has_image = features.owner > 0
    features = replace(features, text_embed=features.text_embed[has_image], owner=features.owner[has_image])
    ids = batch.caption.ids.clone()
    ids[0] = 0
    batch = replace(batch, caption=Text(ids=ids, mask=ids > 0))
    with pytest.raises(ValueError, match="1 queries have no correct candidate"):
        measure([(batch, features)])


def test_a_second_stage_reports_nan_and_missing_captions() -> None:
    scores, right = torch.zeros(2, 3), torch.tensor([[True, False, False], [False, False, False]])
    with pytest.raises(ValueError, match="1 queries have no correct candidate"):
        update_ties(scores, right, None)
    before = torch.tensor([[0, 1, 1], [2, 1, 1]])
    assert update_ties(scores, right, before).tolist() == [[0, 3, 1], [2, 1, 1]], "outside the candidates: as before"
    scores[1, 2] = torch.nan
    with pytest.raises(ValueError, match="scores contain NaN"):
        update_ties(scores, right, before)


if __name__ == "__main__":  # one of two processes; its batches follow those of the ranks before it
    store, shares, rank = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results = []
    for share in shares:
        every = batches([size for sizes in share for size in sizes])
        first = sum(len(sizes) for sizes in share[:rank])
        result, shown = measure(every[first : first + len(share[rank])])
        results.append([result, len(shown["similarity"]["images"]), len(shown["text_to_image"])])
    print(json.dumps(results))
    torch.distributed.destroy_process_group()


def test_dims_measure_the_first_numbers_of_the_embeddings() -> None:
    ((batch, features),) = batches([11])
    model = VisionLanguageModel(vision=nn.Linear(1, 1))
    task, cut = Retrieval(dims=[3]), Retrieval()
    shorter = replace(
        features,
        image_embed=F.normalize(features.image_embed[:, :3], dim=-1),
        text_embed=F.normalize(features.text_embed[:, :3], dim=-1),
    )
    for one, given in ((task, features), (cut, shorter)):
        one.reset()
        one.update(model, batch, given)
    figures, expected = task.compute(model), cut.compute(model)
    assert figures["first_3_rsum"] == pytest.approx(expected["rsum"])
    assert figures["first_3_text_to_image_r1"] == pytest.approx(expected["text_to_image_r1"])
    assert figures["first_3_rsum"] != figures["rsum"]
    wide = Retrieval(dims=[9])
    wide.reset()
    wide.update(model, batch, features)
    with pytest.raises(ValueError, match="the joint space has 8 numbers"):
        wide.compute(model)
