"""What the gate refuses: each figure that is not good enough, and generated tokens that differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.deploy.export import tiny
from vlp.deploy.export.gate import GateError, Measured, compare_generated, eager_outputs, measure_graph
from vlp.deploy.export.golden import GoldenInputs, draw_pictures
from vlp.deploy.export.plan import Plan, plan_graphs
from vlp.deploy.export.recall_gate import RecallComparison
from vlp.deploy.export.verb_gate import compare_verbs

GOOD = {"difference": 1e-7, "alone": 1e-8, "cosine": 0.999, "cosine_alone": 0.9999}


def golden_of(predictor: Any, plan: Plan) -> GoldenInputs:
    return GoldenInputs(
        model=predictor.model,
        pixels=torch.stack([predictor.transform(picture) for picture in draw_pictures(3)]),
        rules=predictor.require_tokenizer().rules,
        vocabulary_size=300,
        context_length=16,
        decoder_length=16,
    )


@pytest.mark.parametrize(
    ("figure", "value", "message"),
    [
        ("difference", 1.1e-5, "differs from the eager model"),
        ("difference", float("nan"), "differs from the eager model"),
        ("alone", 1.1e-6, "of one input differs from itself in a batch"),
        ("cosine", 0.98, "mean cosine of 0.9800"),
        ("cosine_alone", 0.9994, "has a cosine of 0.99940 with itself"),
    ],
)
def test_each_figure_is_judged(figure: str, value: float, message: str) -> None:
    assert Measured(graph="image", **GOOD).fault() is None
    fault = Measured(graph="image", **(GOOD | {figure: value})).fault()
    assert fault is not None
    assert message in fault


def test_low_precisions_are_judged_by_direction_or_by_recall() -> None:
    low = Measured(graph="image", precise=False, **(GOOD | {"difference": 0.05, "alone": 0.01, "cosine": 0.98}))
    assert "mean cosine" in str(low.fault())
    assert low.fault(by_recall=True) is None


@pytest.mark.parametrize(
    ("artifact", "overlap", "message"),
    [((60.0, 50.0), 0.9, None), ((59.4, 50.0), 0.9, "image to text"), ((60.0, 49.0), 0.9, "text to image"),
     ((60.0, 50.0), 0.8, "80 %")],
)  # fmt: skip
def test_recall_may_fall_by_half_a_point(artifact: tuple[float, float], overlap: float, message: str | None) -> None:
    fault = RecallComparison(images=9, captions=9, model=(60.0, 50.0), artifact=artifact, overlap=overlap).fault()
    assert fault is None if message is None else message in str(fault)


def test_a_graph_that_reads_its_neighbours_is_noticed() -> None:
    predictor = tiny.build("clip")
    plan = plan_graphs(predictor)
    golden, graph = golden_of(predictor, plan), plan.graphs["text"]

    def mixed(inputs: Any) -> dict[str, np.ndarray]:
        found = eager_outputs(graph, inputs)["text_embeds"]
        return {"text_embeds": found + 1e-5 * found.mean(0)}

    exact = measure_graph(graph, lambda inputs: eager_outputs(graph, inputs), golden, precision="float32")
    assert exact.fault() is None
    assert measure_graph(graph, mixed, golden, precision="float32").fault() is not None


def test_another_token_is_noticed() -> None:
    predictor = tiny.build("coca")
    plan = plan_graphs(predictor)
    golden = golden_of(predictor, plan)
    runs = {name: lambda inputs, graph=graph: eager_outputs(graph, inputs) for name, graph in plan.graphs.items()}
    compare_generated(plan.graphs, runs, golden)

    def other(inputs: Any) -> dict[str, np.ndarray]:
        found = eager_outputs(plan.graphs["step"], inputs)
        return found | {"logits": np.roll(found["logits"], 1, axis=1)}

    with pytest.raises(GateError, match="generate other tokens"):
        compare_generated(plan.graphs, runs | {"step": other}, golden)


def test_a_verb_that_answers_otherwise_is_named() -> None:
    predictor = tiny.build("clip")

    class Engine:
        verbs = ("embed_texts",)
        graphs = ("text",)

        def embed_texts(self, texts: list[str]) -> np.ndarray:
            return predictor.embed_texts(texts).numpy()[::-1]

    with pytest.raises(GateError, match="the verb embed_texts"):
        compare_verbs(predictor, Engine())
