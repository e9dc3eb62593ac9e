"""Visual commonsense reasoning: figures by hand, scores of both kinds, what a prediction may know, regions, and the leaderboard."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from tests.gradients import gradients
from tests.processes import run_processes
from tests.towers import ToyVision
from tests.words import WordTokenizer
from vlp.models.decoder.causal import CausalDecoder
from vlp.models.dense.regions import region_features
from vlp.models.features import compute_features
from vlp.models.fusion.cross import CrossFusion
from vlp.models.fusion.single_stream import SingleStreamFusion
from vlp.models.text.bert import BertText
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Boxes, Features, Image, Text, Tokens
from vlp.system.errors import UserError
from vlp.tasks.vcr import VCR

TOKENIZER = WordTokenizer()
QUESTIONS = ("what colour is the circle", "how many", "what is the shape", "is the circle red")
ANSWERS = (
    ("red", "green", "blue", "two"),
    ("one", "two", "the red circle", "a square"),
    ("a circle", "a square", "the picture", "a circle"),  # twice the same
    ("yes", "no", "red", "yes yes"),
)
RATIONALES = (
    ("the circle is red", "the circle is green", "a square is red", "two of the picture"),
    ("two", "one", "the shape", "red"),
    ("the shape is a circle", "the shape is a square", "the colour is red", "the shape is a circle"),
    ("the circle is red", "the circle is blue", "no circle", "a square"),
)
LABEL, REASON = (0, 1, 3, 2), (0, 3, 1, 2)
KINDS = ("albef", "vilt", "likelihood")


def toy(kind: str = "albef") -> VisionLanguageModel:
    torch.manual_seed(0)
    text = BertText(vocabulary_size=TOKENIZER.size, context_length=24, width=8, layers=1, heads=2, dropout=0.0)
    shared: dict[str, Any] = {"image_width": 8, "text_width": 8, "width": 8, "layers": 1, "heads": 2, "dropout": 0.0}
    fusion = SingleStreamFusion(**shared) if kind == "vilt" else CrossFusion(**shared, pool="mean")
    decoder = None
    if kind == "likelihood":
        decoder = CausalDecoder(
            vocabulary_size=TOKENIZER.size, memory_width=8, width=8, layers=1, heads=2, context_length=24, dropout=0.0
        )
    return VisionLanguageModel(vision=ToyVision(), text=text, fusion=fusion, decoder=decoder).double()


def task(kind: str = "albef", **options: Any) -> VCR:
    torch.manual_seed(1)
    head: dict[str, Any] = {"kind": "likelihood"} if kind == "likelihood" else {"width": 8}
    vcr = VCR(**head | options).double()
    vcr.prepare(toy(kind), TOKENIZER, None)
    return vcr


def candidates(rows: tuple[tuple[str, ...], ...]) -> Text:
    flat = TOKENIZER([text for row in rows for text in row])
    shape = (len(rows), 4, flat.ids.shape[1])
    return Text(ids=flat.ids.view(shape), mask=flat.mask.view(shape))


def vcr_batch(rows: slice = slice(None), **fields: Any) -> Batch:
    index = torch.arange(4)[rows]
    pixels = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    whole: dict[str, Any] = {
        "id": index, "sample": 100 + index, "seed": index, "image": Image(pixels=pixels[rows]),
        "question": TOKENIZER(QUESTIONS[rows]), "choices": candidates(ANSWERS[rows]),
        "rationales": candidates(RATIONALES[rows]), "label": torch.tensor(LABEL[rows]),
        "rationale_label": torch.tensor(REASON[rows]),
    }  # fmt: skip
    return Batch(**whole | fields)


def features_of(model: VisionLanguageModel, vcr: VCR, batch: Batch) -> Features:
    return compute_features(model, batch, vcr.uses)


def score_by_hand(
    model: VisionLanguageModel, vcr: VCR, row: int, words: list[str], response: str, head: str
) -> torch.Tensor:
    """Of one response alone: its words after those of its query, each part with its end, in one row without padding."""
    image = Image(pixels=vcr_batch().image.pixels[row : row + 1])
    parts = [[*TOKENIZER.encode([part])[0], 2] for part in words]
    memory = model.encode_image(image)
    if vcr.kind == "head":
        ids = torch.tensor([[1, *(i for part in parts for i in part), *TOKENIZER.encode([response])[0], 2]])
        fused = model.fuse(model.encode_text(Text(ids=ids, mask=ids > 0)), memory)
        return getattr(vcr, head)(fused.pooled)[0, 0]
    ids = torch.tensor([[1, *(i for part in parts for i in part)]])
    fused = model.fuse(model.encode_text(Text(ids=ids, mask=ids > 0)), memory)
    own = torch.tensor([[1, *TOKENIZER.encode([response])[0], 2]])
    logits = model.decode(Text(ids=own, mask=own > 0), fused)[0, :-1].log_softmax(1)
    return logits.gather(1, own[0, 1:, None]).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_each_response_alone(kind: str) -> None:
    model, vcr, batch = toy(kind), task(kind).eval(), vcr_batch()
    answers, rationales = vcr.all_scores(model, batch, features_of(model, vcr, batch))
    for row in range(4):
        for answer in range(4):
            expected = score_by_hand(model, vcr, row, [QUESTIONS[row]], ANSWERS[row][answer], "answer_head")
            torch.testing.assert_close(answers[row, answer], expected)
            for reason in range(4):
                query = [QUESTIONS[row], ANSWERS[row][answer]]
                expected = score_by_hand(model, vcr, row, query, RATIONALES[row][reason], "rationale_head")
                torch.testing.assert_close(rationales[row, answer, reason], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_responses_have_equal_scores(kind: str) -> None:
    model, vcr, batch = toy(kind).float(), task(kind).float().eval(), vcr_batch()
    batch = dataclasses.replace(batch, image=Image(pixels=batch.image.pixels.float()))
    answers, rationales = vcr.all_scores(model, batch, features_of(model, vcr, batch))
    assert torch.equal(answers[2, 0], answers[2, 3])
    assert torch.equal(rationales[2, 0], rationales[2, 3])
    assert torch.equal(rationales[2, :, 0], rationales[2, :, 3])
    assert len(set(answers.detach().flatten().tolist())) == 15


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_sum_of_both_cross_entropies(kind: str) -> None:
    model, vcr, batch = toy(kind), task(kind), vcr_batch()
    features = features_of(model, vcr, batch)
    answers, rationales = vcr.all_scores(model, batch, features)
    given_right = rationales[torch.arange(4), batch.label]
    loss = vcr(model, batch, features)
    expected = F.cross_entropy(answers, batch.label) + F.cross_entropy(given_right, batch.rationale_label)
    torch.testing.assert_close(loss.value, expected)
    hits = (given_right.argmax(1) == batch.rationale_label).double().mean()
    torch.testing.assert_close(loss.logs["rationale_accuracy"], 100 * hits)


def test_the_right_responses_own_loss_is_the_mean_over_their_tokens() -> None:
    model, batch = toy("likelihood"), vcr_batch()
    plain, both = task("likelihood"), task("likelihood", likelihood_weight=0.5)
    features = features_of(model, plain, batch)
    answers, rationales = plain.all_scores(model, batch, features)
    rows = torch.arange(4)
    total = answers[rows, batch.label].sum() + rationales[rows, batch.label, batch.rationale_label].sum()
    words = sum(
        len(ANSWERS[row][LABEL[row]].split()) + len(RATIONALES[row][REASON[row]].split()) + 2 for row in range(4)
    )
    difference = both(model, batch, features).value - plain(model, batch, features).value
    torch.testing.assert_close(difference, 0.5 * -total / words)


def test_likelihoods_by_the_number_of_tokens() -> None:
    model, batch = toy("likelihood"), vcr_batch()
    total, mean = task("likelihood").eval(), task("likelihood", length_exponent=1.0).eval()
    sums = total.all_scores(model, batch, features_of(model, total, batch))[0]
    means = mean.all_scores(model, batch, features_of(model, mean, batch))[0]
    lengths = torch.tensor([[len(answer.split()) + 1 for answer in row] for row in ANSWERS])
    torch.testing.assert_close(means, sums / lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    model, vcr, batch = toy(kind), task(kind), vcr_batch()
    vcr(model, batch, features_of(model, vcr, batch)).value.backward()
    assert [name for name, p in [*model.named_parameters(), *vcr.named_parameters()] if p.grad is None] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_is_encoded_once_for_twenty_texts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, vcr, batch = toy(kind), task(kind).eval(), vcr_batch()
    seen = {"vision": 0, "memory": 0}
    encode, project = model.encode_image, model.project_memory

    def count(name: str, call: Any, argument: Any, rows: int) -> Any:
        seen[name] += rows
        return call(argument)

    monkeypatch.setattr(model, "encode_image", lambda image: count("vision", encode, image, len(image.pixels)))
    monkeypatch.setattr(model, "project_memory", lambda image: count("memory", project, image, len(image.states)))
    vcr.predict(model, batch)
    assert seen == {"vision": 4, "memory": 4}


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_does_not_know_the_labels(kind: str) -> None:
    """Nor does the file for the leaderboard: its rationales are conditioned on each answer in turn."""
    model, vcr = toy(kind), task(kind).eval()
    known = vcr.predict(model, vcr_batch())
    other = vcr_batch(label=torch.tensor([1, 2, 0, 3]), rationale_label=torch.tensor([3, 2, 1, 0]))
    assert vcr.predict(model, other) == known
    assert vcr.predict(model, vcr_batch(label=None, rationale_label=None)) == known
    for record in known:
        assert sum(record["answer_probability"]) == pytest.approx(1)
        assert [sum(row) for row in record["rationale_probability"]] == pytest.approx([1] * 4)
        assert record["answer_probability"][record["answer"]] == max(record["answer_probability"])
    assert known[0]["rationale_probability"][0] != known[0]["rationale_probability"][1]


class Given(VCR):
    """Scores by hand in place of a model's."""

    def __init__(self, answers: list[list[float]], rationales: list[list[float]], **options: Any) -> None:
        super().__init__(width=8, **options)
        self.given = torch.tensor(answers), torch.tensor(rationales)

    def _measured_scores(self, model: Any, batch: Batch, features: Any, label: Any) -> Any:
        return tuple(scores[batch.id] for scores in self.given)


def figures(answers: list[list[float]], rationales: list[list[float]], **fields: Any) -> dict[str, float | None]:
    vcr = Given(answers, rationales)
    vcr.reset()
    for rows in (slice(0, 1), slice(1, 4)):
        batch = vcr_batch(rows)
        fields_of_rows = {name: value[rows] for name, value in fields.items()}
        vcr.update(toy(), dataclasses.replace(batch, **fields_of_rows), Features())
    result = vcr.compute(toy())
    assert vcr.left_out() == 4 - int((fields.get("label", torch.tensor(LABEL)) >= 0).sum())
    return result


def one_hot(*best: int) -> list[list[float]]:
    return [[float(choice == row) for choice in range(4)] for row in best]


def test_both_right_by_hand() -> None:
    """A right rationale after a wrong answer is no hit of Q→AR. Right answers 0 1 3 2, rationales 0 3 1 2."""
    found = figures(one_hot(0, 1, 3, 0), one_hot(0, 2, 1, 2))
    assert found == {"questions": 4, "answer": 75, "rationale": 75, "answer_and_rationale": 50}


def test_ties_share_the_credit() -> None:
    answers = [[0.5, 0.5, 0, 0], *one_hot(1), [0, 0, 0, 0], [1, 1, 0, 0]]
    rationales = [[0.5, 0.5, 0.5, 0], [0, 0, 2, 2], *one_hot(1), [1, 1, 1, 1]]
    found = figures(answers, rationales)
    assert found["answer"] == pytest.approx(100 * (1 / 2 + 1 + 1 / 4 + 0) / 4)
    assert found["rationale"] == pytest.approx(100 * (1 / 3 + 1 / 2 + 1 + 1 / 4) / 4)
    assert found["answer_and_rationale"] == pytest.approx(100 * (1 / 6 + 1 / 2 + 1 / 4 + 0) / 4)


def test_constant_scores_have_the_accuracy_of_chance() -> None:
    constant = [[1.0] * 4] * 4
    assert figures(constant, constant) == {
        "questions": 4,
        "answer": 25,
        "rationale": 25,
        "answer_and_rationale": 6.25,
    }


def test_questions_without_labels_are_left_out() -> None:
    found = figures(one_hot(0, 1, 3, 0), one_hot(0, 2, 1, 2), label=torch.tensor([0, 1, -1, -1]))
    assert found["answer"] == 100
    assert found["rationale"] == 50


@pytest.mark.parametrize("kind", KINDS)
def test_the_measured_figures_are_of_the_predictions(kind: str) -> None:
    """Over batches of any size: QA→R is of the rationales that are predicted given the right answer."""
    model, vcr = toy(kind), task(kind).eval()
    records = vcr.predict(model, vcr_batch())
    answer = [record["answer"] == label for record, label in zip(records, LABEL, strict=True)]
    reasons = [record["rationale_probability"][label] for record, label in zip(records, LABEL, strict=True)]
    rationale = [row.index(max(row)) == reason for row, reason in zip(reasons, REASON, strict=True)]
    vcr.reset()
    for rows in (slice(0, 3), slice(3, 4)):
        batch = vcr_batch(rows)
        vcr.update(model, batch, features_of(model, vcr, batch))
    found = vcr.compute(model)
    if kind != "likelihood":  # the equal answers of the third question tie there
        assert found["answer"] in (25 * sum(answer), 25 * sum(answer) + 12.5, 25 * sum(answer) - 12.5)
    assert found["rationale"] == pytest.approx(25 * sum(rationale), abs=12.5)


class Named:
    name = "vcr"

    def annotation_id(self, split: str, sample: int) -> str:
        return f"{split}-{sample - 100}"


def check_leaderboard(text: str, questions: int) -> list[dict[str, str]]:
    """From the description of the file: a header, and for each question its annotation's id, the probabilities of four answers and,
    given each of them, those of four rationales."""
    rows = list(csv.DictReader(io.StringIO(text)))
    expected = ["annot_id", "answer_0", "answer_1", "answer_2", "answer_3"]
    for answer in "0123":
        expected += [f"rationale_conditioned_on_a{answer}_{reason}" for reason in "0123"]
    assert list(rows[0]) == expected
    assert len(expected) == 21
    assert len(rows) == questions
    assert len({row["annot_id"] for row in rows}) == questions
    for row in rows:
        values = [float(row[name]) for name in expected[1:]]
        assert all(0 <= value <= 1 for value in values)
        for start in range(0, 20, 4):
            assert abs(sum(values[start : start + 4]) - 1) < 1e-6
    return rows


def test_the_leaderboards_file(tmp_path: Path) -> None:
    """Without labels, as the test split has none, in the order of the questions."""
    path = tmp_path / "out" / "leaderboard.csv"
    model, vcr = toy(), task(results_file=path).eval()
    vcr.prepare(model, TOKENIZER, Named())
    vcr.split = "test"
    vcr.reset()
    for rows in (slice(2, 4), slice(0, 2)):
        batch = vcr_batch(rows, label=None, rationale_label=None)
        vcr.update(model, batch, features_of(model, vcr, batch))
    assert vcr.compute(model) == {"questions": 4}
    assert vcr.left_out() == 0
    rows = check_leaderboard(path.read_text(), 4)
    assert [row["annot_id"] for row in rows] == ["test-0", "test-1", "test-2", "test-3"]
    for row, record in zip(rows, vcr.predict(model, vcr_batch()), strict=True):
        assert [float(row[f"answer_{answer}"]) for answer in range(4)] == pytest.approx(record["answer_probability"])
        given = [float(row[f"rationale_conditioned_on_a2_{reason}"]) for reason in range(4)]
        assert given == pytest.approx(record["rationale_probability"][2])


def test_the_leaderboards_file_beside_figures(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.csv"
    found = []
    for options in ({}, {"results_file": path}):
        model, vcr = toy(), task(**options).eval()
        vcr.reset()
        vcr.update(model, vcr_batch(), features_of(model, vcr, vcr_batch()))
        found.append(vcr.compute(model))
    assert found[0] == found[1]
    check_leaderboard(path.read_text(), 4)
    with pytest.raises(UserError, match=r"the leaderboard takes a CSV"):
        task(results_file=tmp_path / "leaderboard.json")


def with_regions(text: Text, *, token: int, regions: list[int]) -> Text:
    mentioned = torch.full((*text.ids.shape, 2), -1)
    mentioned[..., token, : len(regions)] = torch.tensor(regions)
    return dataclasses.replace(text, regions=mentioned)


class Raster(ToyVision):
    """Two states in a row, of which each half of a box names one."""

    def forward(self, image: Image) -> Tokens:
        left, right = (
            super(Raster, self).forward(Image(pixels=pixels)).states for pixels in (image.pixels, 1 - image.pixels)
        )
        return Tokens(states=torch.cat([left, right], dim=1), pooled=left[:, 0], grid=(1, 2))


def region_batch(first: list[int], second: list[int], boxes: list[Boxes]) -> Batch:
    batch = vcr_batch(slice(0, 1))
    return dataclasses.replace(
        batch,
        boxes=boxes,
        question=with_regions(batch.question, token=2, regions=first),
        choices=with_regions(batch.choices, token=1, regions=second),
        rationales=with_regions(batch.rationales, token=1, regions=[]),
    )


def two_boxes(*positions: int) -> Boxes:
    halves = torch.tensor([[0, 0, 0.5, 1], [0.5, 0, 1, 1]], dtype=torch.float64)[list(positions)]
    return Boxes(xyxy=halves, label=torch.zeros(len(positions), dtype=torch.int64), index=torch.tensor(positions))


@pytest.mark.parametrize("kind", ["albef", "vilt"])
def test_regions_reach_the_tokens_that_mention_them(kind: str) -> None:
    model, vcr = toy(kind), task(kind, region_widths=[8, 8]).eval()
    model.vision = Raster().double()
    batch = region_batch([0], [1], [two_boxes(0, 1)])
    features = features_of(model, vcr, batch)
    answers = vcr.all_scores(model, batch, features)[0]
    states = region_features(features.image, batch.boxes)
    for answer in range(4):
        question = [1, *TOKENIZER.encode([QUESTIONS[0]])[0], 2]
        ids = torch.tensor([[*question, *TOKENIZER.encode([ANSWERS[0][answer]])[0], 2]])
        tokens = model.encode_text(Text(ids=ids, mask=ids > 0))
        added = torch.zeros_like(tokens.states)
        added[0, 2], added[0, len(question)] = vcr.regions.map(states[0]), vcr.regions.map(states[1])
        fused = model.fuse(dataclasses.replace(tokens, states=tokens.states + added), features.memory)
        torch.testing.assert_close(answers[0, answer], vcr.answer_head(fused.pooled)[0, 0])


def test_regions_by_the_boxes_that_the_view_shows() -> None:
    """A box that a crop cut away adds nothing, and the others keep their positions; of two boxes it is the mean."""
    model, vcr = toy(), task(region_widths=[8, 8]).eval()
    model.vision = Raster().double()

    def answers(first: list[int], boxes: Boxes) -> torch.Tensor:
        batch = region_batch(first, [], [boxes])
        return vcr.all_scores(model, batch, features_of(model, vcr, batch))[0]

    assert torch.equal(answers([1], two_boxes(0, 1)), answers([1], two_boxes(1)))
    assert torch.equal(answers([0], two_boxes(1)), answers([], two_boxes(0, 1)))
    assert not torch.allclose(answers([0, 1], two_boxes(0, 1)), answers([0], two_boxes(0, 1)), atol=1e-9)
    none = dataclasses.replace(
        two_boxes(0),
        xyxy=torch.zeros(0, 4),
        label=torch.zeros(0, dtype=torch.int64),
        index=torch.zeros(0, dtype=torch.int64),
    )
    assert torch.equal(answers([0], none), answers([], two_boxes(0, 1)))
    with pytest.raises(UserError, match=r"data\.regions=true"):
        vcr(model, vcr_batch(), features_of(model, vcr, vcr_batch()))


def test_long_questions_are_shortened_and_responses_are_not() -> None:
    model, vcr = toy(), task().eval()
    long = dataclasses.replace(vcr_batch(), question=TOKENIZER([" ".join(["the"] * 12)] * 4))
    answers = vcr.all_scores(model, long, features_of(model, vcr, long))[0]
    assert answers.isfinite().all()
    vcr._tokenizer = WordTokenizer()
    vcr._tokenizer.truncate = False
    longer = dataclasses.replace(long, rationales=candidates((("red red red red red red red red red red",) * 4,) * 4))
    features = features_of(model, vcr, longer)
    with pytest.raises(UserError, match=r"29 tokens, and the text tower takes 24"):
        vcr.all_scores(model, longer, features)


def test_what_cannot_be_scored_is_said() -> None:
    model, vcr = toy(), task()
    with pytest.raises(UserError, match="right answer and rationale are known"):
        vcr(model, vcr_batch(label=None), features_of(model, vcr, vcr_batch()))
    short = candidates(ANSWERS)
    short = dataclasses.replace(short, mask=short.mask & (torch.arange(4) < 3)[None, :, None])
    with pytest.raises(UserError, match="fewer answers or rationales than another one"):
        vcr.predict(model, vcr_batch(choices=short))
    with pytest.raises(UserError, match=r"unknown tasks\.vcr\.kind='decoder': choose head or likelihood"):
        VCR(kind="decoder")
    with pytest.raises(UserError, match=r"needs tasks\.vcr\.width"):
        VCR()
    with pytest.raises(UserError, match=r"set it to 0 for a head"):
        VCR(width=8, likelihood_weight=1.0)
    with pytest.raises(UserError, match=r"tasks\.vcr\.region_widths is for heads"):
        VCR(kind="likelihood", region_widths=[8, 8])


class Step(torch.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.model, self.task = toy(kind), task(kind)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.task(self.model, batch, features_of(self.model, self.task, batch)).value


def measured(kind: str, rows: slice, file: Path | None = None) -> dict[str, float | None]:
    model, vcr = toy(kind), task(kind, results_file=file).eval()
    vcr.reset()
    batch = vcr_batch(rows)
    if len(batch):
        vcr.update(model, batch, features_of(model, vcr, batch))
    return vcr.compute(model)


def _on_rank(rank: int, world: int, folder: str) -> list[Any]:
    rows = (slice(0, 1), slice(1, 4))[rank]
    all_rows = (slice(0, 4), slice(0, 0))[rank]
    gradient = [gradients(DistributedDataParallel(Step(kind)), vcr_batch(rows)) for kind in KINDS]
    figure = [measured(kind, rows, Path(folder) / f"{kind}.csv") for kind in KINDS]
    return [gradient, figure, measured("albef", all_rows)]


@functools.cache
def on_two_ranks() -> tuple[list[list[Any]], dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        results = run_processes(2, _on_rank, Path(folder) / "out", folder)
        return results, {kind: (Path(folder) / f"{kind}.csv").read_text() for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(kind: str, tmp_path: Path) -> None:
    """Losses, gradients, figures and the file; a rank may have no question."""
    one = gradients(Step(kind), vcr_batch())
    results, files = on_two_ranks()
    for gradient, figure, uneven in results:
        two = gradient[KINDS.index(kind)]
        assert one.keys() == two.keys()
        for name, expected in one.items():
            torch.testing.assert_close(two[name], expected, rtol=0, atol=1e-12, msg=name)
        assert figure[KINDS.index(kind)] == measured(kind, slice(0, 4), tmp_path / "one.csv")
        assert uneven == measured("albef", slice(0, 4))
    ours, theirs = check_leaderboard((tmp_path / "one.csv").read_text(), 4), check_leaderboard(files[kind], 4)
    for own, other in zip(ours, theirs, strict=True):
        assert own["annot_id"] == other["annot_id"]
        assert float(own["answer_0"]) == pytest.approx(float(other["answer_0"]), abs=1e-12)


def test_padding_and_the_order_of_the_batch_change_nothing() -> None:
    for kind in KINDS:
        model, vcr = toy(kind), task(kind).eval()
        whole = vcr.predict(model, vcr_batch())
        for row in range(4):
            (alone,) = vcr.predict(model, vcr_batch(slice(row, row + 1)))
            assert alone["answer_probability"] == pytest.approx(whole[row]["answer_probability"], abs=1e-12)
            for given, expected in zip(
                alone["rationale_probability"], whole[row]["rationale_probability"], strict=True
            ):
                assert given == pytest.approx(expected, abs=1e-12)
