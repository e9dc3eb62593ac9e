"""Visual dialogue: both ways to score options against brute force, its losses, figures and files, on one process and two."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from tests.gradients import gradients
from tests.processes import run_processes
from tests.towers import toy_with_decoder
from tests.words import WordTokenizer
from vlp.data.collate import tokenize_rows
from vlp.data.rounds import round_key
from vlp.metrics.visual_dialogue import ndcg, tied_ranks
from vlp.models.features import compute_features
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.lm import token_losses
from vlp.structures import Batch, Image, Sample, Text
from vlp.system.errors import UserError
from vlp.tasks.visual_dialogue import VisualDialogue, append_texts

TOKENIZER = WordTokenizer()
DIALOGUES = (
    "a red circle what colour is the circle",
    "how many",
    "the square is blue what is the shape",
    "what colour",
)
OPTIONS = (
    ("red", "blue", "a red circle"),
    ("two", "one", "many"),
    ("square", "circle", "is"),
    ("red", "green", "blue"),
)
LABELS = (0, 0, 1, 2)
RELEVANCES = ((1.0, 0.0, 0.5), (), (0.0, 1.0, 0.0), ())


@dataclasses.dataclass
class Data:
    """As much of a data module as the task reads."""

    name: str = "toy"
    answers: tuple[str, ...] | None = ("red", "red", "two", "blue")

    def split(self, name: str) -> list[Sample]:
        if self.answers is None:
            raise FileNotFoundError("no training dialogues")
        return [Sample(id=i, sample=i, image=Path("a.png"), answers=(a,)) for i, a in enumerate(self.answers)]


def toy() -> VisionLanguageModel:
    return toy_with_decoder(TOKENIZER.size)


def sample(row: int, **changed: Any) -> Sample:
    fields: dict[str, Any] = {
        "question": DIALOGUES[row], "history": ("a picture",), "choices": OPTIONS[row], "label": LABELS[row],
        "relevance": RELEVANCES[row], "answers": (OPTIONS[row][LABELS[row]],),
    }  # fmt: skip
    return Sample(id=row, sample=round_key(7 + row, row + 1), image=Path(f"{row}.png"), **fields | changed)


def dialogue_batch(rows: slice = slice(0, 4), *, evaluation: bool = True, **changed: Any) -> Batch:
    index = list(range(4))[rows]
    pixels = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)[rows]
    relevance = torch.tensor([RELEVANCES[row] or (-1.0,) * 3 for row in index])
    answers = tokenize_rows(TOKENIZER, [[OPTIONS[row][LABELS[row]]] for row in index], kind="answer")
    fields: dict[str, Any] = {
        "id": torch.tensor(index), "sample": torch.tensor([round_key(7 + row, row + 1) for row in index]),
        "seed": torch.tensor(index), "image": Image(pixels=pixels),
        "question": TOKENIZER([DIALOGUES[row] for row in index], kind="dialogue"),
        "choices": tokenize_rows(TOKENIZER, [OPTIONS[row] for row in index], kind="answer"),
        "relevance": relevance, "label": torch.tensor([LABELS[row] for row in index]),
        "answer": answers, "answer_weight": torch.ones(len(index), 1, dtype=torch.float64),
        "raw": tuple(map(sample, index)) if evaluation else None,
    }  # fmt: skip
    return Batch(**fields | changed)


def task(mode: str = "generative", data: Data | None = None, **options: Any) -> VisualDialogue:
    torch.manual_seed(1)
    if mode == "discriminative":
        options |= {"width": 4}
    built = VisualDialogue(mode=mode, **options).double()
    built.prepare(toy(), TOKENIZER, data or Data())
    built.reset()
    return built


def update(built: VisualDialogue, batch: Batch, model: VisionLanguageModel | None = None) -> VisualDialogue:
    model = model or toy()
    built.update(model, batch, compute_features(model, batch, built.uses))
    return built


def scores_of(built: VisualDialogue, batch: Batch) -> torch.Tensor:
    model = toy()
    with torch.no_grad():
        return built.score_options(model, batch, compute_features(model, batch, built.uses).memory)[0]


def one_by_one(built: VisualDialogue) -> torch.Tensor:
    """Every option of every round alone."""
    model, scores = toy(), torch.zeros(4, 3)
    batch = dialogue_batch()
    image = model.encode_image(batch.image)
    for row in range(4):
        for column in range(3):
            option = TOKENIZER([OPTIONS[row][column]], kind="answer")
            if built.head is None:
                dialogue = TOKENIZER([DIALOGUES[row]], kind="dialogue")
                fused = model.fuse(model.encode_text(dialogue), image.select([row]))
                scores[row, column] = -float(token_losses(model.decode(option, fused), option).sum().detach())
            else:
                text = TOKENIZER([f"{DIALOGUES[row]} {OPTIONS[row][column]}"], kind="question")
                # the dialogue has an end token of its own before the option
                words = TOKENIZER([DIALOGUES[row]], kind="dialogue").ids[0].tolist() + option.ids[0, 1:].tolist()
                text = Text(ids=torch.tensor([words]), mask=torch.ones(1, len(words), dtype=torch.bool))
                fused = model.fuse(model.encode_text(text), image.select([row]))
                scores[row, column] = float(built.head(fused.pooled).detach())
    return scores


@pytest.mark.parametrize("mode", ["generative", "discriminative"])
@pytest.mark.parametrize("per_step", [1, 2, 5, 1000])
def test_scores_are_those_of_each_option_alone_in_chunks_of_any_size(mode: str, per_step: int) -> None:
    built = task(mode, options_per_step=per_step)
    torch.testing.assert_close(scores_of(built, dialogue_batch()), one_by_one(built), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["generative", "discriminative"])
def test_equal_options_have_equal_scores_and_missing_ones_change_nothing(mode: str) -> None:
    built = task(mode)
    twice = [("red", "blue", "red"), ("two", "one"), ("square",), ("red", "green", "blue")]
    batch = dialogue_batch(choices=tokenize_rows(TOKENIZER, twice, kind="answer"))
    scores, expected = scores_of(built, batch), scores_of(built, dialogue_batch())
    assert scores[0, 0] == scores[0, 2]
    torch.testing.assert_close(scores[1, :2], expected[1, :2])
    torch.testing.assert_close(scores[2, :1], expected[2, :1])


def test_a_dialogue_loses_its_start_for_the_option() -> None:
    text = TOKENIZER(["red green blue", "one"])
    option = TOKENIZER(["circle square", "a"], kind="answer")
    joined = append_texts(text, option, limit=6, start=True)
    start, end = TOKENIZER.start_id, TOKENIZER.end_id
    words = [[row[i] for i in range(6) if joined.mask[n, i]] for n, row in enumerate(joined.ids.tolist())]
    encoded = {word: TOKENIZER.encode([word])[0][0] for word in ("blue", "one", "circle", "square", "a")}
    assert words[0] == [start, encoded["blue"], end, encoded["circle"], encoded["square"], end]
    assert words[1] == [start, encoded["one"], end, encoded["a"], end]
    assert TOKENIZER.decode([row for row in joined.ids[0].tolist() if row != end]) == "blue circle square"


def test_the_generative_loss_is_that_of_the_answers() -> None:
    built, model, batch = task(), toy(), dialogue_batch(evaluation=False)
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(4):
        answer = TOKENIZER([OPTIONS[row][LABELS[row]]], kind="answer")
        fused = model.fuse(
            model.encode_text(TOKENIZER([DIALOGUES[row]], kind="dialogue")),
            model.encode_image(batch.image).select([row]),
        )
        logits = model.decode(answer, fused)[0, :-1]
        expected = expected + F.cross_entropy(logits, answer.ids[0, 1:], reduction="sum") / 4
    value = built(model, batch, compute_features(model, batch, built.uses)).value
    torch.testing.assert_close(value, expected)


def test_the_discriminative_loss_compares_the_answer_with_the_other_options() -> None:
    built, model, batch = task("discriminative"), toy(), dialogue_batch(evaluation=False)
    loss = built(model, batch, compute_features(model, batch, built.uses))
    scores = one_by_one(built)
    expected = F.cross_entropy(scores, torch.tensor(LABELS))
    torch.testing.assert_close(loss.value.float(), expected, rtol=1e-5, atol=1e-6)
    assert float(loss.logs["accuracy"]) == 25.0 * int((scores.argmax(1) == torch.tensor(LABELS)).sum())
    two = task("discriminative", train_options=2)  # an answer and one other
    value = two(model, batch, compute_features(model, batch, two.uses)).value
    pairs = [
        [
            F.cross_entropy(scores[row, [LABELS[row], other]], torch.tensor(0))
            for other in range(3)
            if other != LABELS[row]
        ]
        for row in range(4)
    ]
    assert any(
        abs(float(value.detach()) - float(sum(pairs[row][(choice >> row) & 1] for row in range(4)) / 4)) < 1e-5
        for choice in range(16)
    )


def test_every_parameter_gets_a_gradient() -> None:
    for mode in ("generative", "discriminative"):
        built, model, batch = task(mode), toy(), dialogue_batch(evaluation=False)
        if mode == "discriminative":
            model.decoder = None
        built(model, batch, compute_features(model, batch, built.uses)).value.backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in built.parameters())
        assert all(p.grad is not None for p in model.parameters())


def test_figures_are_those_of_the_metrics(tmp_path: Path) -> None:
    built = task(results_file=tmp_path / "ranks.json")
    scores = scores_of(built, dialogue_batch())
    update(update(built, dialogue_batch(slice(2, 4))), dialogue_batch(slice(0, 2)))
    figures = built.compute(toy())
    ranks = tied_ranks(scores)[torch.arange(4), torch.tensor(LABELS)]
    assert figures["rounds"] == 4
    assert figures["r1"] == pytest.approx(100 * float((ranks == 1).double().mean()))
    assert figures["mean_rank"] == pytest.approx(float(ranks.mean()))
    assert figures["mrr"] == pytest.approx(100 * float((1 / ranks).mean()))
    gains = ndcg(scores[[0, 2]], torch.tensor([RELEVANCES[0], RELEVANCES[2]]))
    assert figures["ndcg"] == pytest.approx(100 * float(gains.mean()))
    assert figures["dense_rounds"] == 2
    # by training answers: "red" 2, "two" 1, "blue" 1, others 0: right in rounds 0 and 1; in 2 all three tie; in 3 "red" wins
    assert figures["frequent_answer_r1"] == 50.0
    written = json.loads((tmp_path / "ranks.json").read_text())
    assert [(one["image_id"], one["round_id"]) for one in written] == [(7, 1), (8, 2), (9, 3), (10, 4)]
    assert all(sorted(one["ranks"]) == [1, 2, 3] for one in written)
    assert written[0]["ranks"].index(1) == int(scores[0].argmax())


def test_test_dialogues_without_answers_are_ranked_and_not_measured(tmp_path: Path) -> None:
    built = task(results_file=tmp_path / "ranks.json")
    raw = tuple(sample(row, label=None, answers=(), relevance=()) for row in range(4))
    update(built, dialogue_batch(label=None, relevance=None, raw=raw))
    assert built.compute(toy()) == {"rounds": 4.0}
    assert built.left_out() == 0
    assert len(json.loads((tmp_path / "ranks.json").read_text())) == 4


def test_without_training_dialogues_there_is_no_frequent_answer() -> None:
    built = task(data=Data(answers=None))
    with pytest.warns(UserWarning, match="no frequent_answer_r1"):
        update(built, dialogue_batch())
    assert "frequent_answer_r1" not in built.compute(toy())


def test_predictions_rank_all_options() -> None:
    built, batch = task(), dialogue_batch()
    scores, records = scores_of(built, batch), built.predict(toy(), batch)
    assert [(one["image_id"], one["round_id"]) for one in records] == [(7, 1), (8, 2), (9, 3), (10, 4)]
    for row, record in enumerate(records):
        assert record["answer"] == OPTIONS[row][int(scores[row].argmax())]
        assert sorted(record["ranks"]) == [1, 2, 3]  # type: ignore[call-overload]


def test_what_it_applies_to() -> None:
    generative, discriminative = task(), task("discriminative")
    assert generative.applies(dialogue_batch(evaluation=False, choices=None, label=None), "toy")
    assert not discriminative.applies(dialogue_batch(evaluation=False, choices=None, label=None), "toy")
    assert not generative.applies(dialogue_batch(choices=None), "toy")
    assert discriminative.applies(dialogue_batch(answer=None), "toy")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mode": "guess"}, "unknown tasks.visual_dialogue.mode='guess': choose generative or discriminative"),
        ({"mode": "discriminative"}, "set tasks.visual_dialogue.width"),
        ({"train_options": 1}, "at least 2 options"),
        ({"options_per_step": 0}, "at least 1 at a time"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        VisualDialogue(**options)


class Step(torch.nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.model, self.task = toy(), task(mode)
        if mode == "discriminative":
            self.model.decoder = None

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.task(self.model, batch, compute_features(self.model, batch, self.task.uses)).value


MODES = ("generative", "discriminative")


def _on_rank(rank: int, world: int) -> list[Any]:
    rows = (slice(0, 1), slice(1, 4))[rank]
    trained = [gradients(DistributedDataParallel(Step(mode)), dialogue_batch(rows, evaluation=False)) for mode in MODES]
    return [*trained, *(update(task(mode), dialogue_batch(rows)).compute(toy()) for mode in MODES)]


@functools.cache
def on_two_ranks() -> list[list[Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return run_processes(2, _on_rank, Path(folder))


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_equal_one(mode: str) -> None:
    one, figures = (
        gradients(Step(mode), dialogue_batch(evaluation=False)),
        update(task(mode), dialogue_batch()).compute(toy()),
    )
    for both in on_two_ranks():
        two = both[MODES.index(mode)]
        assert one.keys() == two.keys()
        for name, expected in one.items():
            torch.testing.assert_close(two[name], expected, rtol=0, atol=1e-12, msg=name)
        assert both[2 + MODES.index(mode)] == figures
