"""How long one input takes by an artifact's graphs and by torch: CPU time of one thread, alternating, the least of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from vlp.deploy.export.gate import Run, eager_outputs
from vlp.deploy.export.golden import GoldenInputs
from vlp.deploy.export.plan import PlannedGraph

TOKENS = 13
REPEATS = 3
LONGEST = 20.0  # seconds for all graphs together; a graph that is not measured has no row


def measure_latency(
    graphs: Mapping[str, PlannedGraph], runs: Mapping[str, Run], golden: GoldenInputs
) -> dict[str, dict[str, float]]:
    """Graph → {"torch": ms, "artifact": ms} for one image, one text of 13 tokens, or one of each.  runs: of one thread."""
    found, end = {}, time.monotonic() + LONGEST
    for name, graph in graphs.items():
        inputs = golden.of(graph, 1, min(TOKENS, golden.context_length or 1))
        calls: dict[str, Callable[[], Any]] = {
            "torch": lambda graph=graph, inputs=inputs: eager_outputs(graph, inputs),  # type: ignore[misc]
            "artifact": lambda name=name, inputs=inputs: runs[name](inputs),  # type: ignore[misc]
        }
        least = dict.fromkeys(calls, float("inf"))
        with one_thread():
            for _ in range(1 + REPEATS):  # the first warms up
                for kind, call in calls.items():
                    start = time.process_time()
                    call()
                    least[kind] = min(least[kind], 1000 * (time.process_time() - start))
        found[name] = {kind: round(value, 3) for kind, value in least.items()}
        if time.monotonic() > end:
            break
    return found


@contextmanager
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
