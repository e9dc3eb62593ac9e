"""Measures weights between two checkpoints, a model and the same one fine-tuned: the WiSE-FT curve (arXiv:2109.01903)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from vlp.checkpoints.mixing import mix_tensors
from vlp.predictor import Predictor
from vlp.report.plots import plot_mix_curves
from vlp.report.tables import is_task_figure
from vlp.system.errors import UserError
from vlp.training.module import VisionLanguageModule

Figures = dict[str, float | None]
DRAWN = ("top1", "mean_average_precision", "accuracy", "rsum", "ap", "miou")  # of a task's figures


def first_state(first: Predictor, module: VisionLanguageModule) -> dict[str, Tensor]:
    """The first checkpoint's weights under the names of the module, which has the second's. A head that the first does not have
    starts as its task starts it, from the first's own weights: one from texts is zero-shot.  Raises UserError where a head has
    no such start."""
    state = {f"model.{key}": value for key, value in first.model.state_dict().items()}
    tokenizer = first.tokenizer if first.model.text is not None else None
    for name, head in module.objectives.items():
        own: Any = dict(first.objectives.items()).get(name)
        if own is None and head.state_dict():
            own = _fresh_head(name, head, first, tokenizer)
        if own is not None:
            state |= {f"objectives.{name}.{key}": value for key, value in own.state_dict().items()}
    return state


def _fresh_head(name: str, head: Any, first: Predictor, tokenizer: Any) -> nn.Module:
    if not hasattr(head, "untrained"):
        raise UserError(f"checkpoint=[A,B] mix=…: A has no head for {name}, which is trained in B: give an A with one")
    fresh: Any = head.untrained()
    fresh.prepare(first.model, tokenizer, SimpleNamespace(class_names=head.class_names))
    return fresh  # type: ignore[no-any-return]


def measure_mixes(
    module: VisionLanguageModule,
    first: Mapping[str, Tensor],
    shares: Sequence[float | int],
    measure: Callable[[], Figures],
) -> Figures:
    """Figures of every share, with `_mix_<share>` after their names.  measure: of the module as it is.  The module has the second
    checkpoint's weights again at the end."""
    second = {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
    start = {key: value.detach().cpu() for key, value in first.items()}
    results: Figures = {}
    for share in shares:
        module.load_state_dict(mix_tensors(start, second, float(share)))
        results |= {
            f"{name}_mix_{share:g}" if is_task_figure(name) else name: value for name, value in measure().items()
        }
    module.load_state_dict(second)
    return results


def draw_mix_curves(results: Mapping[str, Any], path: Path) -> Path | None:
    """None where no figure is among DRAWN."""
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, value in results.items():
        figure, marked, share = name.rpartition("_mix_")
        if marked and value is not None and figure.rpartition("/")[2] in DRAWN:
            curves[figure].append((float(share), value))
    if not curves:
        return None
    plot_mix_curves({name: sorted(points) for name, points in curves.items()}, path)
    return path
