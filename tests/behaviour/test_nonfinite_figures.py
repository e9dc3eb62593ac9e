"""NaN and infinity are errors, never answers: in every task, in the predictor, and in metrics that get them directly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from torch import nn

from tests.behaviour.test_world_evaluation import COLOURS, TOKENIZER, Shapes, tasks, toy, toy_predictor, write_images
from vlp.data.transforms import EvalTransform
from vlp.metrics.bootstrap import bootstrap_means, confidence_interval
from vlp.metrics.recall import count_ties, exact_cosines, rank_candidates, recall_from_scores, update_ties
from vlp.metrics.vqa_accuracy import summarise_accuracy
from vlp.models.generation import GenerationRules, beam_search, greedy_search, sample_nucleus
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.itm import ITM
from vlp.predictor import Predictor
from vlp.structures import Batch, Features, Image
from vlp.system.errors import UserError
from vlp.tasks.base import Task
from vlp.tasks.captioning import Captioning
from vlp.tasks.compositionality import Compositionality
from vlp.tasks.matching import Matching
from vlp.tasks.nlvr2 import NLVR2
from vlp.tasks.retrieval import Retrieval
from vlp.tasks.visual_entailment import VisualEntailment
from vlp.tasks.vqa import VQA
from vlp.tasks.zero_shot import ZeroShot
from vlp.training.evaluator import Measurement

NOT_FINITE = "contain NaN or infinity: the model has diverged; use an earlier checkpoint"
NAN, INFINITY = float("nan"), float("inf")
TRANSFORM = EvalTransform(image_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


def spoil(module: nn.Module, name: str, value: float) -> None:
    with torch.no_grad():
        module.get_parameter(name).view(-1)[-1] = value


def measure(
    model: VisionLanguageModel, task: Task, kind: str, folder: Path, *, count: int = 6
) -> dict[str, float | None]:
    data = Shapes(
        count=count, kind=kind, name=kind, root=folder, transform={"train": TRANSFORM, "eval": TRANSFORM}, tokenizer=TOKENIZER,
        eval_batch_size=4,
    )  # fmt: skip
    measurement = Measurement(
        model=model, tasks={"task": task}, sources={kind: data}, tokenizer=TOKENIZER, split="test"
    )
    for batch in data.test_dataloader():
        measurement.update(batch, source=0, step=0)
    return measurement.finish()


EMBEDDING_TASKS = [("captions", "retrieval"), ("captions", "compositionality"), ("classes", "zero_shot")]
HEADS = [
    ("captions", "reranked", "itm.head.weight"),
    ("captions", "matching", "itm.head.weight"),
    ("captions", "cloze", "mlm.head.bias"),
    ("questions", "vqa", "classifier.3.bias"),
    ("sentences", "visual_entailment", "head.2.weight"),
]


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize(("kind", "name"), EMBEDDING_TASKS)
@pytest.mark.parametrize("side", ["image", "text"])
def test_one_number_of_a_projection(folder: Path, kind: str, name: str, side: str, value: float) -> None:
    model = toy()
    spoil(model, f"projection.{side}.weight", value)
    with pytest.raises(UserError, match=NOT_FINITE):
        measure(model, tasks(folder)[kind][name], kind, folder)


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize(("kind", "name", "parameter"), HEADS)
def test_one_number_of_a_head(folder: Path, kind: str, name: str, parameter: str, value: float) -> None:
    task = tasks(folder)[kind][name]
    other, _, rest = parameter.partition(".")
    if other in task.linked:
        spoil(task.linked[other], rest, value)
    else:
        spoil(task, parameter, value)
    with pytest.raises(UserError, match=NOT_FINITE):
        measure(toy(), task, kind, folder)


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize("settings", [{"beams": 3}, {"beams": 1}, {"top_p": 0.9}])
def test_captions_of_any_search(folder: Path, settings: dict[str, Any], value: float) -> None:
    model = toy()
    spoil(model, "decoder.head.bias", value)
    with pytest.raises(UserError, match=NOT_FINITE):
        measure(model, Captioning(max_length=6, min_length=0, **settings), "captions", folder)


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize("kind", ["rank", "generate"])
def test_answers_of_a_decoder(folder: Path, kind: str, value: float) -> None:
    model = toy()
    model.decoder = type(model.part("decoder"))(
        vocabulary_size=TOKENIZER.size, memory_width=4, width=8, layers=1, heads=2, context_length=20, dropout=0.0
    ).eval()
    task = VQA(kind=kind, answers=list(COLOURS))
    assert "accuracy" in str(measure(model, task, "questions", folder))
    spoil(model, "decoder.embedding.weight", value)
    with pytest.raises(UserError, match=NOT_FINITE):
        measure(model, task, "questions", folder)


@pytest.mark.parametrize("value", [NAN, INFINITY])
def test_a_sentence_about_two_images(value: float) -> None:
    model = toy()
    model.fusion = type(model.part("fusion"))(
        image_width=8, text_width=6, width=4, layers=2, heads=2, hidden_width=6, dropout=0.0, images=2
    ).eval()
    ids = torch.arange(2)
    text = TOKENIZER(["a red circle", "two"])
    image = Image(pixels=torch.zeros(2, 2, 3, 4, 4, dtype=torch.uint8))
    batch = Batch(id=ids, sample=ids, seed=ids, image=image, question=text, label=ids)
    task = NLVR2(width=4, head="albef")
    task.reset()
    task.update(model, batch, Features())
    spoil(task, "head.2.bias", value)
    for call in (lambda: task.update(model, batch, Features()), lambda: task.predict(model, batch)):
        with pytest.raises(UserError, match=NOT_FINITE):
            call()


class Diverging(Task):
    """A user's own task, whose figure is not finite though no output of the model was checked."""

    requires = ("image",)

    def __init__(self, value: float | None) -> None:
        super().__init__()
        self.value = value

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        pass

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        return {"score": self.value}


def test_a_figure_that_is_not_finite(folder: Path) -> None:
    for value in (NAN, INFINITY):
        with pytest.raises(UserError, match=r"captions/task/score is (nan|inf): the model has diverged"):
            measure(toy(), Diverging(value), "captions", folder)
    assert measure(toy(), Diverging(None), "captions", folder) == {"captions/task/score": None}


@pytest.fixture
def predictor() -> Predictor:
    return toy_predictor()


IMAGES = [PIL.Image.new("RGB", (4, 4), colour) for colour in COLOURS]
CALLS: dict[str, Callable[[Predictor], Any]] = {
    "embed_images": lambda p: p.embed_images(IMAGES),
    "similarity": lambda p: p.similarity(IMAGES, ["a red circle"]),
    "classify": lambda p: p.classify(IMAGES, list(COLOURS)),
    "match": lambda p: p.match(IMAGES, ["a red circle"] * 3),
    "fill_mask": lambda p: p.fill_mask(IMAGES, ["a [MASK] circle"] * 3),
    "answer": lambda p: p.answer(IMAGES, ["what colour"] * 3),
    "caption": lambda p: p.caption(IMAGES),
}


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize("verb", CALLS)
def test_the_predictor(predictor: Predictor, verb: str, value: float) -> None:
    CALLS[verb](predictor)
    spoil(predictor.model, "vision.net.3.weight", value)
    with pytest.raises(UserError, match=NOT_FINITE):
        CALLS[verb](predictor)


@pytest.mark.parametrize("side", ["text", "image"])
def test_embeddings_of_one_side(predictor: Predictor, side: str) -> None:
    spoil(predictor.model, f"projection.{side}.weight", NAN)
    with pytest.raises(UserError, match=NOT_FINITE):
        predictor.embed_texts(["a red circle"]) if side == "text" else predictor.embed_images(IMAGES)


@pytest.mark.parametrize(
    "task", [Retrieval(), Matching(), ZeroShot(templates=["a {}"]), Compositionality(), VisualEntailment(width=4)]
)
def test_predictions_of_a_task(folder: Path, task: Task) -> None:
    model = toy()
    kind = {ZeroShot: "classes", VisualEntailment: "sentences"}.get(type(task), "captions")  # type: ignore[call-overload]
    data = Shapes(
        count=4, kind=kind, name=kind, root=folder, transform={"train": TRANSFORM, "eval": TRANSFORM}, tokenizer=TOKENIZER
    )  # fmt: skip
    task.linked = {"itm": ITM(width=4)}
    task.prepare(model, TOKENIZER, data)
    (batch,) = data.test_dataloader()
    assert len(task.predict(model, batch)) == 4
    spoil(model, "vision.net.3.weight", NAN)
    with pytest.raises(UserError, match=NOT_FINITE):
        task.predict(model, batch)


def test_metrics_that_get_them_directly() -> None:
    ids, good = torch.arange(2), torch.eye(2)
    for value in (NAN, INFINITY, -INFINITY):
        bad = torch.tensor([[value, 0.0], [0.0, 1.0]])
        calls: list[Callable[[], Any]] = [
            lambda bad=bad: count_ties(bad, good.bool()),
            lambda bad=bad: update_ties(bad, good.bool(), None),
            lambda bad=bad: recall_from_scores(bad, ids, ids),
            lambda bad=bad: exact_cosines(bad, good),
            lambda bad=bad: rank_candidates(good, bad, ids, ids),
            lambda bad=bad: bootstrap_means(bad[0], ids),
            lambda bad=bad: confidence_interval(bad[0].double()),
            lambda value=value: summarise_accuracy([1.0, value]),
        ]
        for call in calls:
            with pytest.raises(UserError, match="NaN or infinity"):
                call()


def test_minus_infinity_marks_what_is_no_candidate() -> None:
    scores = torch.tensor([[0.5, -INFINITY], [-INFINITY, 0.25]])
    assert count_ties(scores, torch.eye(2).bool()).tolist() == [[0, 1, 1], [0, 1, 1]]
    with pytest.raises(UserError, match="NaN or infinity"):
        count_ties(scores.flip(0), torch.eye(2).bool())


def test_impossible_tokens_may_be_minus_infinity() -> None:
    """But where no token is possible there is no answer."""
    rules = GenerationRules(end_id=2, pad_id=0, max_length=4)
    prompt = torch.ones(1, 1, dtype=torch.int64)

    class Cache:
        def select(self, index: torch.Tensor) -> Cache:
            return self

    def search(logits: list[float]) -> list[torch.Tensor]:
        def step(ids: torch.Tensor, cache: Cache) -> tuple[torch.Tensor, Cache]:
            return torch.tensor([logits]).expand(len(ids), -1), cache

        return [
            greedy_search(step, Cache(), prompt, rules),
            beam_search(step, Cache(), prompt, rules, beams=2),
            sample_nucleus(step, Cache(), prompt, rules, top_p=0.5, seeds=torch.tensor([1])),
        ]

    assert all(ids[0].tolist() == [1, 2] for ids in search([-INFINITY, -INFINITY, 1.0, 0.0]))
    with pytest.raises(UserError, match=NOT_FINITE):
        search([-INFINITY] * 4)
