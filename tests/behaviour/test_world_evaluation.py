"""Evaluation with one process and with two, of 1, 2, 3, 9, 10 and 11 samples, in batches of 2 and of 3: every sample once, equal
figures, equal files; with the data module's loaders and each task.

The towers add rounding errors to some rows, as matrix products do on some processors: a few units in the last place, depending
on the row's position and the batch size. Captions are shared by several images, and two images are in several files.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from tests.processes import run_processes
from tests.towers import ToyText, ToyVision
from vlp.data.datamodule import DataModule
from vlp.data.transforms import EvalTransform
from vlp.models.decoder.causal import CausalDecoder
from vlp.models.fusion.cross import CrossFusion
from vlp.models.gallery import _gather_packed
from vlp.models.projection.linear import LinearProjection
from vlp.models.reranking import PackedTokens
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.itm import ITM
from vlp.objectives.mlm import MLM
from vlp.predictor import Predictor
from vlp.structures import Blank, Image, Sample, Text, Tokens
from vlp.tasks.base import Task
from vlp.tasks.captioning import Captioning
from vlp.tasks.cloze import Cloze
from vlp.tasks.compositionality import Compositionality
from vlp.tasks.matching import Matching
from vlp.tasks.retrieval import Retrieval
from vlp.tasks.visual_entailment import VisualEntailment
from vlp.tasks.vqa import VQA
from vlp.tasks.zero_shot import ZeroShot
from vlp.tokenizers.trained import TrainedTokenizer
from vlp.training.evaluator import Measurement

COUNTS = (1, 2, 3, 9, 10, 11)
SHAPES, COLOURS = ("circle", "square"), ("red", "green", "blue")
TOKENIZER = TrainedTokenizer(size=320, context_length=20)
TOKENIZER.train([f"a the picture of two what colour is {colour} {shape}" for colour in COLOURS for shape in SHAPES])
CLOCKS = ("rerank_seconds", "rerank_pairs_per_second")
Worlds = tuple[list[dict[str, Any]], list[dict[str, Any]], Path]


def with_rounding_errors(tokens: Tokens) -> Tokens:
    """Three units in the last place of every second number, in some rows of some batches."""
    rows = len(tokens.pooled)
    noisy = (torch.arange(rows) + rows) % 2 == 1
    pattern = torch.arange(tokens.pooled.shape[1]) % 2
    factor = 1 + 3 * torch.finfo(torch.float32).eps * noisy[:, None] * pattern
    return dataclasses.replace(tokens, states=tokens.states * factor[:, None], pooled=tokens.pooled * factor)


class NoisyVision(ToyVision):
    def forward(self, image: Image) -> Tokens:
        return with_rounding_errors(super().forward(image))


class NoisyText(ToyText):
    def forward(self, text: Text) -> Tokens:
        return with_rounding_errors(super().forward(text))


class Shapes(DataModule):
    """Random images.  kind: captions (with choices and blanks), classes, questions or sentences."""

    def __init__(self, *, count: int, kind: str, **loading: Any) -> None:
        super().__init__(**loading)
        self.count, self.kind = count, kind
        self.class_names = COLOURS if kind == "classes" else None
        self.answer_names = COLOURS if kind == "questions" else None

    def samples(self, split: str) -> list[Sample]:
        return [self._sample(number, "train_" if split == "train" else "") for number in range(self.count)]

    def _sample(self, number: int, prefix: str) -> Sample:
        colour, shape = COLOURS[number % 3], SHAPES[number % 2]
        caption = f"a {colour} {shape}"
        annotations: dict[str, Any] = {"label": number % 3}
        if self.kind == "captions":
            blank = Blank(caption=0, start=2, end=2 + len(colour), words=(colour,), kind="colour")
            annotations = {
                "captions": (caption, f"the {shape}", f"the picture of {number % 2 * 'two '}{colour}")[: 1 + number % 3],
                "choices": (f"a {COLOURS[(number + 1) % 3]} {shape}", caption), "label": 1, "blanks": (blank,),
            }  # fmt: skip
        if self.kind == "questions":
            answers = (colour,) * 7 + (COLOURS[(number + 1) % 3],) * 3
            annotations = {"question": f"what colour is the {shape}", "answers": answers, "answer_type": "other"}
        if self.kind == "sentences":
            annotations = {"question": f"the {shape} is {colour}", "label": number % 3}
        # ids decrease and sample ids are scattered, so that a file in the order of loading is not sorted
        image = self.root / f"{prefix}{number}.png"
        return Sample(id=900 - 7 * number, sample=(17 * number) % 101, image=image, **annotations)


def write_images(root: Path) -> None:
    for number in range(max(COUNTS)):
        noise = np.random.default_rng(number % 9).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        for prefix in ("", "train_"):
            PIL.Image.fromarray(noise).save(root / f"{prefix}{number}.png")


def toy() -> VisionLanguageModel:
    torch.manual_seed(0)
    return VisionLanguageModel(
        vision=NoisyVision(),
        text=NoisyText(vocabulary=TOKENIZER.size),
        projection=LinearProjection(image_width=8, text_width=6, width=5),
        fusion=CrossFusion(image_width=8, text_width=6, width=4, layers=1, heads=2, hidden_width=6, dropout=0.0),
        decoder=CausalDecoder(
            vocabulary_size=TOKENIZER.size, memory_width=8, width=8, layers=1, heads=2, context_length=20, dropout=0.0
        ),
    ).eval()


def toy_predictor() -> Predictor:
    """With a head for each of its methods."""
    torch.manual_seed(0)
    objectives = {
        "itm": ITM(width=4), "mlm": MLM(width=4, vocabulary_size=TOKENIZER.size, tied=False),
        "vqa": VQA(answers=list(COLOURS), width=4), "captioning": Captioning(max_length=6, min_length=0),
    }  # fmt: skip
    transform = EvalTransform(image_size=4)
    return Predictor(model=toy(), objectives=nn.ModuleDict(objectives).eval(), tokenizer=TOKENIZER, transform=transform)


def tasks(out: Path) -> dict[str, dict[str, Task]]:
    """Tasks by the kind of data that they are measured on.  out: folder of their result files."""
    torch.manual_seed(1)
    heads: dict[str, Any] = {"itm": ITM(width=4), "mlm": MLM(width=4, vocabulary_size=TOKENIZER.size, tied=False)}
    torch.nn.init.normal_(heads["itm"].head.weight)
    tasks_by_kind: dict[str, dict[str, Task]] = {
        "captions": {
            "retrieval": Retrieval(), "reranked": Retrieval(rerank=3), "matching": Matching(),
            "compositionality": Compositionality(), "cloze": Cloze(),
            "captioning": Captioning(beams=1, max_length=6, min_length=0, results_file=out / "captions.json"),
        },
        "classes": {"zero_shot": ZeroShot(templates=["a {}", "the {} picture"])},
        "questions": {"vqa": VQA(answers=list(COLOURS), width=4, results_file=out / "answers.json")},
        "sentences": {"visual_entailment": VisualEntailment(width=4)},
    }  # fmt: skip
    for kind_tasks in tasks_by_kind.values():
        for task in kind_tasks.values():
            task.linked = {name: heads[name] for name in task.heads}
    return tasks_by_kind


def measure(rank: int, world: int, root: str, out: str) -> dict[str, Any]:
    """For each number of samples: the figures, and the samples that this rank saw. Files are written below `out`."""
    results: dict[str, Any] = {}
    model, transform = toy(), {kind: EvalTransform(image_size=4) for kind in ("train", "eval")}
    for count in COUNTS:
        figures: dict[str, float] = {}
        seen: list[int] = []
        for kind, kind_tasks in tasks(Path(out) / str(count)).items():
            data = Shapes(
                count=count,
                kind=kind,
                name=kind,
                root=root,
                transform=transform,
                tokenizer=TOKENIZER,
                eval_batch_size=1 + world,
            )
            data.load("test")
            measurement = Measurement(
                model=model, tasks=kind_tasks, sources={kind: data}, tokenizer=TOKENIZER, split="test"
            )
            for batch in data.test_dataloader():
                measurement.update(batch, source=0, step=0)
                if kind == "captions" and batch is not None:
                    seen += batch.sample.tolist()
            figures |= measurement.finish()
        results[str(count)] = {"figures": figures, "seen": seen}
    return results


def gather_half_precision(rank: int) -> list[float]:
    """Gathers bfloat16 texts of the first rank; the second rank has none."""
    states = torch.arange(24.0).view(2, 3, 4).bfloat16()
    mine = PackedTokens.from_batches([Tokens(states=states, pooled=states[:, 0])] if rank == 0 else [])
    everyone = _gather_packed(mine, torch.device("cpu"))
    assert everyone.states.dtype == torch.bfloat16
    return everyone.states.flatten().tolist()


def on_rank(rank: int, world: int, root: str, out: str) -> dict[str, Any]:
    return {**measure(rank, world, root, out), "half": gather_half_precision(rank)}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    folder = tmp_path_factory.mktemp("evaluation")
    write_images(folder)
    one = [measure(0, 1, str(folder), str(folder / "one"))]
    return one, run_processes(2, on_rank, folder / "ranks", str(folder), str(folder / "two")), folder


@pytest.mark.parametrize("count", COUNTS)
def test_every_sample_is_seen_exactly_once(worlds: Worlds, count: int) -> None:
    """Of a single sample the second rank gets none."""
    expected = sorted((17 * number) % 101 for number in range(count))
    for world in worlds[:2]:
        assert sorted(sample for rank in world for sample in rank[str(count)]["seen"]) == expected
    assert len(worlds[1][1][str(count)]["seen"]) == count // 2


@pytest.mark.parametrize("count", COUNTS)
def test_figures_are_equal(worlds: Worlds, count: int) -> None:
    """Of every task, on both ranks; counts are equal, means to 1e-6."""
    (one,), two, _ = worlds
    expected = {k: v for k, v in one[str(count)]["figures"].items() if not k.endswith(CLOCKS)}
    assert {name.split("/")[1] for name in expected} == {
        name for kind_tasks in tasks(Path()).values() for name in kind_tasks
    }
    for rank in two:
        figures = {k: v for k, v in rank[str(count)]["figures"].items() if not k.endswith(CLOCKS)}
        assert figures.keys() == expected.keys()
        for name, value in expected.items():
            is_count = name.endswith(("/images", "/captions", "/questions", "/rerank_pairs"))
            if value is None:  # undefined, such as an accuracy on negatives where there are none
                assert figures[name] is None, name
            else:
                assert figures[name] == pytest.approx(value, rel=0, abs=0 if is_count else 1e-6), name
    if count > 3:  # figures that are always 0 or 100 would test nothing
        assert sum(0 < value < 100 for name, value in expected.items() if name.endswith(("accuracy", "_r1"))) > 5


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("name", "key"), [("captions.json", "image_id"), ("answers.json", "question_id")])
def test_results_files_are_equal_and_in_order(worlds: Worlds, count: int, name: str, key: str) -> None:
    """Merged from the ranks and sorted by id, byte by byte equal to the file of one process."""
    files = [(worlds[2] / world / str(count) / name).read_text() for world in ("one", "two")]
    assert files[0] == files[1]
    ids = [record[key] for record in json.loads(files[0])]
    assert ids == sorted(set(ids))
    assert len(ids) == count


def test_a_rank_without_texts_gathers_those_of_another_type(worlds: Worlds) -> None:
    """For second stages in mixed precision."""
    assert [rank["half"] for rank in worlds[1]] == [list(range(24))] * 2
