"""Does an artifact compute what its checkpoint computes? It is written only if it does.

float32: every output equals that of the eager model within 1e-5 of its scale, for one image or text and for five, of 2, 13 and
as many tokens as the model takes; each alone equals itself in the batch within 1e-6, outputs other than embeddings within 3e-6;
and decoders write the same tokens.
Lower precisions: outputs point the same way, alone and in a batch. With data: see `vlp.deploy.export.recall_gate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlp.deploy.export.golden import PICTURES, GoldenInputs
from vlp.deploy.export.plan import PlannedGraph
from vlp.deploy.export.precision import PRECISE
from vlp.system.errors import UserError

Run = Callable[[Mapping[str, Tensor]], dict[str, np.ndarray]]  # a graph as the runtime runs it
BATCHES, LENGTHS = (1, 5), (2, 13)
EQUAL, EQUAL_ALONE = 1e-5, 1e-6  # of the larger of 1 and an output's largest value
COSINE, COSINE_ALONE = 0.99, 0.9995
GENERATED = 12  # tokens


class GateError(UserError):
    """An artifact that would answer otherwise than its checkpoint; it is not written."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of one graph.  difference: the largest, as a share of the larger of 1 and the output's largest value; alone: the same between
    an input alone and in a batch.  cosine: the mean over inputs, of lower precisions; cosine_alone: the least."""

    graph: str
    difference: float
    alone: float
    cosine: float
    cosine_alone: float
    precise: bool = True

    def fault(self, *, by_recall: bool = False) -> str | None:
        """What is not good enough, for an error.  by_recall: recall on data decides, not the cosine."""
        if self.precise and not self.difference <= EQUAL:
            return f"{self.graph} differs from the eager model by {self.difference:.1e} and may by {EQUAL:.0e}"
        if self.precise and not self.alone <= (limit := _equal_alone(self.graph)):
            return (
                f"{self.graph} of one input differs from itself in a batch by {self.alone:.1e} and may by {limit:.0e}"
            )
        if not by_recall and not self.cosine >= COSINE:
            return f"{self.graph} has a mean cosine of {self.cosine:.4f} with the eager model and needs {COSINE}"
        if not self.cosine_alone >= COSINE_ALONE:
            cosine = f"{self.cosine_alone:.5f}"
            return f"{self.graph} of one input has a cosine of {cosine} with itself in a batch and needs {COSINE_ALONE}"
        return None


def _equal_alone(graph: str) -> float:
    """Embeddings have unit length; other outputs pass through more sums of other orders."""
    return EQUAL_ALONE if graph in ("image", "text") else 3 * EQUAL_ALONE


@torch.no_grad()
def measure_graph(graph: PlannedGraph, run: Run, golden: GoldenInputs, *, precision: str) -> Measured:
    lengths = sorted({min(each, golden.context_length or 1) for each in (*LENGTHS, golden.context_length)}) or [1]
    differences, directions = [], []
    for batch in BATCHES:
        for length in lengths if _reads_texts(graph) else lengths[:1]:
            inputs = golden.of(graph, batch, length)
            found, wanted = run(inputs), eager_outputs(graph, inputs)
            differences += [relative_difference(found[name], wanted[name]) for name in wanted]
            directions += [cosines(found[name], wanted[name]) for name in wanted]
    alone, cosine_alone = _measure_alone(graph, run, golden)
    return Measured(
        graph=graph.name,
        difference=max(differences),
        alone=alone,
        cosine=float(np.concatenate(directions).mean()),
        cosine_alone=cosine_alone,
        precise=precision == "float32" or graph.name in PRECISE,
    )


def eager_outputs(graph: PlannedGraph, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Of the model by torch, by name."""
    with torch.no_grad():
        found = graph.module(*inputs.values())
    return {
        name: tensor.numpy()
        for name, tensor in zip(graph.outputs, (found,) if isinstance(found, Tensor) else found, strict=True)
    }


def _reads_texts(graph: PlannedGraph) -> bool:
    return graph.inputs != ("pixels",)


def _measure_alone(graph: PlannedGraph, run: Run, golden: GoldenInputs) -> tuple[float, float]:
    """The largest difference and the least cosine between each of five inputs alone and in the batch."""
    length = min(LENGTHS[-1], golden.context_length or 1)
    inputs = golden.of(graph, BATCHES[-1], length)
    together = run(inputs)
    differences, least = [0.0], [1.0]
    for row in range(BATCHES[-1]):
        alone = run({name: _one_row(name, tensor, row, inputs) for name, tensor in inputs.items()})
        for name, found in alone.items():
            if name in ("past", "next_past", "memory_mask"):  # the cache of a shorter text is shorter
                continue
            rows = together[name][row : row + 1]
            if rows.shape == found.shape:
                differences.append(relative_difference(found, rows))
                least.append(float(cosines(found, rows).min()))
    return max(differences), min(least)


def _one_row(name: str, tensor: Tensor, row: int, inputs: Mapping[str, Tensor]) -> Tensor:
    """A text without the padding that its batch has given it."""
    if name == "queries":
        return tensor
    mask = inputs.get({"ids": "mask", "question_ids": "question_mask"}.get(name, name))
    length = int(mask[row].sum()) if mask is not None and mask.dtype == torch.bool and name != "memory_mask" else None
    return tensor[row : row + 1] if length is None else tensor[row : row + 1, :length]


def relative_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    if wanted.dtype == bool or np.issubdtype(wanted.dtype, np.integer):
        return 0.0 if np.array_equal(found, wanted) else float("inf")
    largest = float(np.abs(wanted).max(initial=0.0))
    difference = np.abs(found.astype(np.float64) - wanted).max(initial=0.0)
    return float(difference) / max(1.0, largest)


def cosines(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Of each input's output as one vector."""
    if found.shape != wanted.shape:
        return np.zeros(1)
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (found, wanted))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.where(norms > 0, (a * b).sum(1) / np.where(norms > 0, norms, 1), (a == b).all(1))


@torch.no_grad()
def compare_generated(plan: Mapping[str, PlannedGraph], runs: Mapping[str, Run], golden: GoldenInputs) -> None:
    """Greedy texts of the drawn pictures, by the graphs and by torch.  Raises UserError where a token differs."""
    for prefix in ("", "answer_"):
        if f"{prefix}prefill" not in plan or f"{prefix}step" not in plan:
            continue
        first, step = plan[f"{prefix}prefill"], plan[f"{prefix}step"]
        inputs = golden.of(first, PICTURES, 1)
        count = min(GENERATED, golden.decoder_length - 1)
        by_torch = _greedy(partial(eager_outputs, first), partial(eager_outputs, step), inputs, step.inputs, count)
        by_graph = _greedy(runs[first.name], runs[step.name], inputs, step.inputs, count)
        if not np.array_equal(by_torch, by_graph):
            share = float((by_torch != by_graph).any(1).mean())
            raise GateError(
                f"the graphs {first.name} and {step.name} generate other tokens than the eager model "
                f"for {100 * share:.0f} % of the drawn pictures"
            )


def _greedy(first: Any, step: Any, inputs: Mapping[str, Tensor], names: tuple[str, ...], count: int) -> np.ndarray:
    found = first(inputs)
    tokens = [found["logits"].argmax(1)]
    cache = {name: found[name] for name in names if name != "ids"}
    for _ in range(count - 1):
        given = {"ids": tokens[-1][:, None], **cache}
        found = step({name: torch.from_numpy(np.ascontiguousarray(given[name])) for name in names})
        cache |= {name.removeprefix("next_"): value for name, value in found.items() if name != "logits"}
        tokens.append(found["logits"].argmax(1))
    return np.stack(tokens, axis=1)
