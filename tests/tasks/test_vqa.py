"""VQA: losses of classifier and decoder, ranking against brute force and ALBEF's numbers, figures, and that it learns."""

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

from tests.checkpoints.fixtures import arrays
from tests.gradients import gradients
from tests.processes import run_processes
from tests.towers import toy_with_decoder
from tests.words import WordTokenizer
from vlp.checkpoints import load
from vlp.models.features import compute_features
from vlp.models.momentum import MomentumCopy
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.lm import token_losses
from vlp.structures import Batch, Image, Sample, Text
from vlp.tasks.vqa import VQA, rank_answers

TOKENIZER = WordTokenizer()
ANSWERS = ("red", "green", "blue", "a red circle", "a red square", "two")
QUESTIONS = ("what colour is the circle", "how many", "what is the shape", "what colour")
GIVEN = (("red", "green"), ("two",), ("a red circle",), ("blue", "red", "green"))
SHARES = ((0.7, 0.3), (1.0,), (0.5,), (0.5, 0.3, 0.2))


@dataclasses.dataclass
class Data:
    """As much of a data module as the task looks at."""

    name: str = "toy"
    answer_names: tuple[str, ...] | None = ANSWERS
    training: tuple[Sample, ...] | None = ()

    def split(self, name: str) -> tuple[Sample, ...]:
        if self.training is None:
            raise FileNotFoundError("no training questions")
        return self.training


def toy() -> VisionLanguageModel:
    return toy_with_decoder(TOKENIZER.size)


def sample(index: int, **fields: Any) -> Sample:
    question = QUESTIONS[index % 4]
    return Sample(id=index, sample=100 + index, image=Path(f"{index}.png"), question=question, **fields)


def vqa_batch(rows: slice = slice(0, 4), **fields: Any) -> Batch:
    index = list(range(4))[rows]
    answers = [GIVEN[i] for i in index]
    flat = TOKENIZER([answer for given in answers for answer in given], kind="answer")
    shape = (len(index), 3, flat.ids.shape[1])
    ids, mask, weight = (
        torch.zeros(shape, dtype=torch.int64),
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(shape[:2]),
    )
    real = torch.arange(3)[None] < torch.tensor([len(given) for given in answers])[:, None]
    ids[real], mask[real] = flat.ids, flat.mask
    weight[real] = torch.tensor([share for i in index for share in SHARES[i]])
    scores = torch.zeros(len(index), len(ANSWERS), dtype=torch.float64)
    for row, given in enumerate(answers):
        scores[row, [ANSWERS.index(answer) for answer in given]] = 0.9
    pixels = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)[rows]
    whole: dict[str, Any] = {
        "id": torch.tensor(index), "sample": 100 + torch.tensor(index), "seed": torch.tensor(index),
        "image": Image(pixels=pixels), "question": TOKENIZER([QUESTIONS[i] for i in index]),
        "answer": Text(ids=ids, mask=mask), "answer_weight": weight, "scores": scores,
    }  # fmt: skip
    return Batch(**whole | fields)


def task(**options: Any) -> VQA:
    torch.manual_seed(1)
    vqa = VQA(**options).double()
    vqa.prepare(toy(), TOKENIZER, Data())
    return vqa


def classifier(**options: Any) -> VQA:
    return task(answers=list(ANSWERS), width=4, **options)


def loss(vqa: VQA, model: VisionLanguageModel, batch: Batch, momentum: MomentumCopy | None = None) -> torch.Tensor:
    return vqa(model, batch, compute_features(model, batch, vqa.uses, momentum=momentum)).value


def test_the_classifiers_loss_is_the_sum_over_answers_and_the_mean_over_questions() -> None:
    vqa, model, batch = classifier(), toy(), vqa_batch()
    assert vqa.kind == "classify"
    fused = model.fuse(model.encode_text(batch.question), model.encode_image(batch.image))
    expected = F.binary_cross_entropy_with_logits(vqa.classifier(fused.pooled), batch.scores) * len(ANSWERS)
    torch.testing.assert_close(loss(vqa, model, batch), expected)


def test_the_decoders_loss_is_weighted_by_how_many_gave_an_answer() -> None:
    model, batch, expected = toy(), vqa_batch(), torch.zeros((), dtype=torch.float64)
    fused = model.fuse(model.encode_text(batch.question), model.encode_image(batch.image))
    for row, (given, shares) in enumerate(zip(GIVEN, SHARES, strict=True)):
        for answer, share in zip(given, shares, strict=True):
            text = TOKENIZER([answer], kind="answer")
            logits = model.decode(text, fused.select([row]))[0, :-1]
            expected = expected + share * F.cross_entropy(logits, text.ids[0, 1:], reduction="sum")
    torch.testing.assert_close(loss(task(), model, batch), expected / 4)


def test_every_parameter_of_the_model_gets_a_gradient() -> None:
    for vqa in (task(), classifier()):
        model = toy()
        loss(vqa, model, vqa_batch()).backward()
        lost = [name for name, p in model.named_parameters() if p.grad is None]
        assert [name for name in lost if vqa.classifier is None or not name.startswith("decoder.")] == []


@pytest.mark.parametrize("twice", [False, True])
@torch.no_grad()
def test_ranking_equals_scoring_every_answer(twice: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, answers = toy(), vqa_batch(), TOKENIZER(list(ANSWERS), kind="answer")
    fused = model.fuse(model.encode_text(batch.question), model.encode_image(batch.image))
    expected = torch.zeros(4, len(ANSWERS), dtype=torch.float64)
    for place in range(len(ANSWERS)):
        text = answers.select([place] * 4)
        logits = model.decode(text, fused)
        expected[:, place] = -token_losses(logits, text).sum(1)
        if twice:
            expected[:, place] += logits[:, 0].log_softmax(1)[:, text.ids[0, 1]]
    for rows in (1024, 6):
        monkeypatch.setattr("vlp.tasks.vqa.ANSWERS_PER_STEP", rows)
        index, score = rank_answers(model, fused, answers, first_token_twice=twice)
        torch.testing.assert_close(score, expected.sort(dim=1, descending=True).values)
        torch.testing.assert_close(expected.gather(1, index), score)
    first = model.decode(Text(ids=answers.ids[:1, :1].expand(4, 1), mask=torch.ones(4, 1).bool()), fused)[:, 0]
    likely = first[:, answers.ids[:, 1]].sort(dim=1, descending=True, stable=True).indices[:, :2]
    pruned, _ = rank_answers(model, fused, answers, candidates=2, first_token_twice=twice)
    assert pruned.sort().values.tolist() == likely.sort().values.tolist()


def training() -> tuple[Sample, ...]:
    return tuple(
        sample(index, answers=(answer,) * 10, question_type=kind)
        for index, (kind, answer) in enumerate([("what colour", "Red."), ("what colour", "red"), ("how many", "two")])
    )


def measured(vqa: VQA, model: VisionLanguageModel, raw: list[Sample]) -> dict[str, float]:
    vqa.reset()
    batch = vqa_batch(slice(0, len(raw)), answer=None, answer_weight=None, scores=None, raw=tuple(raw))
    assert vqa.applies(batch, "toy")
    vqa.update(model, batch, compute_features(model, batch, vqa.uses))
    return vqa.compute(model)


def test_figures_by_answer_type_beside_the_best_prior(tmp_path: Path) -> None:
    vqa = classifier(results_file=tmp_path / "sub" / "results.json")
    vqa.prepare(toy(), TOKENIZER, Data(training=training()))
    model, batch = toy(), vqa_batch()
    answers = [record["answer"] for record in vqa.predict(model, batch)]
    raw = [
        sample(0, answers=(answers[0],) * 10, answer_type="other", question_type="what colour"),
        sample(1, answers=("two",) * 9 + ("one",), answer_type="number", question_type="how many"),
        sample(2, answers=(answers[2],) * 2 + ("no",) * 8, answer_type="other", question_type="never seen"),
        sample(3, answers=("red",) * 10, answer_type="yes/no", question_type="what colour"),
    ]
    right = [1.0, float(answers[1] == "two"), 0.6, float(answers[3] == "red")]
    figures = measured(vqa, model, raw)
    assert figures["accuracy"] == pytest.approx(100 * sum(right) / 4, abs=0.01)
    assert figures["accuracy_other"] == pytest.approx(80)
    assert figures["accuracy_number"] == pytest.approx(100 * right[1])
    prior = [float(answers[0] == "red"), 1.0, 0.6 if answers[2] == "red" else 0.0, 1.0]
    assert figures["prior_accuracy"] == pytest.approx(25 * sum(prior))
    written = json.loads((tmp_path / "sub" / "results.json").read_text())
    assert written == [{"question_id": 100 + i, "answer": answer} for i, answer in enumerate(answers)]


def test_without_peoples_answers_or_training_questions() -> None:
    vqa = classifier()
    assert measured(vqa, toy(), [sample(i) for i in range(4)]) == {"questions": 4.0}
    vqa.prepare(toy(), TOKENIZER, Data(training=None))
    with pytest.warns(UserWarning, match="no prior_accuracy, as the training questions of toy cannot be read"):
        assert "prior_accuracy" not in measured(vqa, toy(), [sample(i, answers=("red",) * 10) for i in range(4)])


@pytest.mark.parametrize("kind", ["rank", "generate", "classify"])
def test_learns_and_answers(kind: str) -> None:
    vqa = task(kind=kind, answers=list(ANSWERS), width=4, candidates=4, weight=1.0)
    model, batch = toy(), vqa_batch()
    optimizer = torch.optim.Adam([*model.parameters(), *vqa.parameters()], lr=0.02)
    for _ in range(120):
        value = loss(vqa, model, batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    predicted = vqa.answer(model, TOKENIZER, batch.image, batch.question)
    if kind != "classify":  # whose answers of a question have equal scores here
        assert [best[0][0] for best in predicted] == ["red", "two", "a red circle", "blue"]
        assert predicted[1][0][1] > 0.5
    assert all(row[0][0] in given for row, given in zip(predicted, GIVEN, strict=True))
    raw = [sample(i, answers=(GIVEN[i][0],) * 10) for i in range(4)]
    assert kind == "classify" or measured(vqa, model, raw)["accuracy"] == 100


def test_what_it_is_not_for() -> None:
    vqa = task()
    entailment = vqa_batch(answer=None, answer_weight=None, scores=None, label=torch.zeros(4, dtype=torch.int64))
    assert not vqa.applies(dataclasses.replace(entailment, raw=tuple(sample(i, label=0) for i in range(4))), "toy")
    assert vqa.applies(vqa_batch(), "toy")
    assert not classifier().applies(vqa_batch(scores=None), "toy")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"kind": "guess"}, "unknown tasks.vqa.kind='guess': choose one of classify, rank, generate"),
        ({"kind": "classify", "width": 4}, "a VQA classifier needs tasks.vqa.width and tasks.vqa.answers"),
        ({"width": 4, "answers": ["red"], "distillation": 0.4}, "with a decoder only"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        VQA(**options)


def test_a_vocabulary_other_than_the_datas() -> None:
    with pytest.raises(ValueError, match=r"set data\.answer_vocabulary to the same label map"):
        classifier().prepare(toy(), TOKENIZER, Data(answer_names=("red", "green")))
    vqa = VQA()
    vqa.prepare(toy(), TOKENIZER, Data(answer_names=None))
    with pytest.raises(ValueError, match=r"set tasks\.vqa\.answers, or tasks\.vqa\.kind=generate"):
        vqa.predict(toy(), vqa_batch())


def test_label_maps_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps({answer: i for i, answer in enumerate(ANSWERS)}))
    assert VQA(answers=str(tmp_path / "map.json"), width=4).architecture() == {"answers": list(ANSWERS)}


class Step(torch.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.model = toy()
        self.task = task() if kind == "rank" else classifier()
        if kind == "classify":
            self.model.decoder = None

    def forward(self, batch: Batch) -> torch.Tensor:
        return loss(self.task, self.model, batch)


def _on_rank(rank: int, world: int) -> list[dict[str, torch.Tensor]]:
    rows = (slice(0, 1), slice(1, 4))[rank]
    return [gradients(DistributedDataParallel(Step(kind)), vqa_batch(rows)) for kind in ("rank", "classify")]


@functools.cache
def on_two_ranks() -> list[list[dict[str, torch.Tensor]]]:
    with tempfile.TemporaryDirectory() as folder:
        return run_processes(2, _on_rank, Path(folder))


@pytest.mark.parametrize("kind", ["rank", "classify"])
def test_two_processes_equal_one(kind: str) -> None:
    one = gradients(Step(kind), vqa_batch())
    for both in on_two_ranks():
        two = both[("rank", "classify").index(kind)]
        assert one.keys() == two.keys()
        for name, expected in one.items():
            torch.testing.assert_close(two[name], expected, rtol=0, atol=1e-12, msg=name)


def reference_batch(inputs: dict[str, torch.Tensor], counts: str) -> Batch:
    """Answers of the questions in a row, as the originals take them, as [b k t]."""
    real = torch.arange(int(inputs[counts].max()))[None] < inputs[counts][:, None]
    shape = (*real.shape, inputs["train_answer_ids"].shape[1])
    ids, mask, weight = (
        torch.zeros(shape, dtype=torch.int64),
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(shape[:2]),
    )
    ids[real], mask[real] = inputs["train_answer_ids"], inputs["train_answer_mask"].bool()
    weight[real] = inputs["train_weights"]
    rows = torch.arange(len(real))
    question = Text(ids=inputs["question_ids"], mask=inputs["question_mask"].bool())
    return Batch(
        id=rows, sample=rows, seed=rows, image=Image(pixels=inputs["image"]), question=question,
        answer=Text(ids=ids, mask=mask), answer_weight=weight,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "alpha"), [("nodistill", None), ("alpha0", 0.0), ("alpha04", 0.4)])
def test_the_losses_of_albef(shared: Path, name: str, alpha: float | None) -> None:
    folder = shared / "reference" / "albef" / "vqa"
    checkpoint = load.read(folder / "checkpoint_07.pth", {})
    model, vqa = load.build_model(checkpoint), VQA(distillation=alpha or 0.0)
    copy = MomentumCopy(model, {"vqa": vqa})
    copy.load_state_dict(checkpoint.momentum)
    copy.step()
    predicted = loss(vqa, model, reference_batch(arrays(folder / "inputs.npz"), "train_k"), copy)
    torch.testing.assert_close(predicted, arrays(folder / "outputs.npz")[f"train_loss_{name}"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_ranking_of_albef(shared: Path) -> None:
    folder = shared / "reference" / "albef" / "vqa"
    model = load.build_model(load.read(folder / "checkpoint_07.pth", {}))
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    batch = reference_batch(inputs, "train_k")
    fused = model.fuse(model.encode_text(batch.question), model.project_memory(model.encode_image(batch.image)))
    torch.testing.assert_close(fused.states[fused.mask], expected["question_states"][fused.mask], atol=1e-5, rtol=0)
    answers = Text(ids=inputs["answer_ids"], mask=inputs["answer_mask"].bool())
    first, _ = model.decoder.step(answers.ids[:1, :1].expand(3, 1), model.decoder.empty_cache(fused))
    torch.testing.assert_close(first, expected["first_token_logits"], atol=2e-5, rtol=0)
    index, score = rank_answers(model, fused, answers, candidates=5, first_token_twice=True)
    assert index.tolist() == expected["topk_ids"].tolist()
    torch.testing.assert_close(score.softmax(1), expected["topk_probs"], atol=1e-5, rtol=0)
