"""Which graphs a checkpoint has, and what of it stays with torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vlp.deploy.export.graphs import (
    AnswerGraph,
    AnswerPrefillGraph,
    AnswerStepGraph,
    ClassifierGraph,
    CocaStepGraph,
    DetectGraph,
    DetectTextsGraph,
    GraphModule,
    ImageGraph,
    ImagePlacesGraph,
    MemoryGraph,
    PairGraph,
    PrefillGraph,
    ProbeGraph,
    SegmentGraph,
    SegmentTextsGraph,
    StepGraph,
    TextGraph,
    cache_names,
)
from vlp.models.decoder.coca import CocaDecoder
from vlp.models.dense.mask_clip import check_mask_clip
from vlp.models.vlm import states_width
from vlp.system.errors import UserError
from vlp.system.suggest import nearest_option

CLASSIFIERS = {"classification": ClassifierGraph, "probe": ProbeGraph, "prompts": ProbeGraph}
_STATES, _TEXT = "image_states", ("ids", "mask")


@dataclass(frozen=True, kw_only=True)
class PlannedGraph:
    """inputs: names of the module's arguments, in order."""

    name: str
    module: GraphModule
    inputs: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.module.outputs


@dataclass(frozen=True, kw_only=True)
class Plan:
    """left_out: what of the checkpoint is no graph → why.  classifier: the task that names the classes of the classifier."""

    graphs: dict[str, PlannedGraph] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    classifier: str | None = None


def plan_graphs(predictor: Any, only: Sequence[str] = ()) -> Plan:
    """only: names of graphs; none = all that the checkpoint has.  Raises UserError where there is nothing to export, or not the
    graph that is asked for."""
    plan = _plan_all(predictor)
    graphs = plan.graphs
    if not graphs:
        parts = (
            ", ".join(name for name in ("vision", "text", "fusion", "decoder") if getattr(predictor.model, name))
            or "none"
        )
        raise UserError(
            "this checkpoint has nothing to export: a graph needs a projection into the joint space, or the head of a task "
            f"({parts} are its parts; {', '.join(predictor.objectives) or 'none'} its heads)"
        )
    if unknown := [name for name in only if name not in graphs]:
        hint = nearest_option(unknown[0], tuple(graphs), count=1) or f" choose from {', '.join(graphs)}"
        raise UserError(f"this checkpoint has no graph {unknown[0]}:{hint}")
    if only:
        wanted = {*only, *(("memory",) if "memory" in graphs and _reads_memory(graphs, only) else ())}
        wanted |= {f"{name.removesuffix('prefill')}step" for name in only if name.endswith("prefill")}
        graphs = {name: graph for name, graph in graphs.items() if name in wanted}
    return Plan(graphs=graphs, left_out=plan.left_out, classifier=plan.classifier)


def _reads_memory(graphs: dict[str, PlannedGraph], names: Sequence[str]) -> bool:
    return any(_STATES in graphs[name].inputs for name in names)


def _plan_all(predictor: Any) -> Plan:
    model, heads = predictor.model, predictor.objectives
    graphs: dict[str, PlannedGraph] = {}
    left_out: dict[str, str] = {}

    def add(name: str, module: GraphModule, *inputs: str) -> None:
        graphs[name] = PlannedGraph(name=name, module=module.eval(), inputs=inputs)

    if model.vision is not None and model.projection is not None:
        add("image", ImageGraph(model), "pixels")
        if _has_places(model):
            add("image_places", ImagePlacesGraph(model), "pixels")
    if model.text is not None and model.projection is not None:
        add("text", TextGraph(model), *_TEXT)
    if "itm" in heads:
        add("pair", PairGraph(model, heads["itm"]), _STATES, *_TEXT)
    vqa: Any = heads["vqa"] if "vqa" in heads else None  # noqa: SIM401 - a ModuleDict has no get
    if vqa is not None and vqa.classifier is not None:
        add("answer", AnswerGraph(model, vqa), _STATES, *_TEXT)
    elif vqa is not None and model.decoder is not None:
        add("answer_prefill", AnswerPrefillGraph(model), _STATES, "question_ids", "question_mask", "ids")
        add("answer_step", AnswerStepGraph(model), "ids", "past", "memory", "memory_mask")
    if model.decoder is not None and _writes_captions(model, heads):
        if cache_names(model.decoder):
            add("prefill", PrefillGraph(model), _STATES, "ids")
            step = CocaStepGraph if isinstance(model.decoder, CocaDecoder) else StepGraph
            add("step", step(model), "ids", "past", "memory")
        else:
            left_out["captions"] = f"the cache of {type(model.decoder).__name__} is not one that graphs can hold"
    if any(_STATES in graph.inputs for graph in graphs.values()):
        add("memory", MemoryGraph(model), "pixels")
    classifier = _add_dense_and_classes(predictor, add)
    known = {"itc", "itm", "vqa", "captioning", "detection", "segmentation", "grounding", *CLASSIFIERS}
    for name in heads:
        if name not in known:
            left_out[name] = "the runtime has no verb for it; vlp.load has"
    return Plan(graphs=graphs, left_out=left_out, classifier=classifier)


def _add_dense_and_classes(predictor: Any, add: Any) -> str | None:
    """The task whose classes the classifier has."""
    model, heads = predictor.model, predictor.objectives
    if "detection" in heads:
        task = heads["detection"]
        if task.names == "texts":
            add("detect", DetectTextsGraph(model, task), "pixels", "queries")
        else:
            add("detect", DetectGraph(model, task), "pixels")
    if "segmentation" in heads:
        task = heads["segmentation"]
        if task.segmenter is None:
            check_mask_clip(model)
        if task.texts:
            add("segment", SegmentTextsGraph(model, task), "pixels", "queries")
        else:
            add("segment", SegmentGraph(model, task), "pixels")
    for name, graph in CLASSIFIERS.items():
        if name in heads and heads[name].lacking(None) is None:
            add("classifier", graph(model, heads[name]), "pixels")
            return name
    return None


def _has_places(model: Any) -> bool:
    try:
        check_mask_clip(model)
    except UserError:
        return False
    return True


def _writes_captions(model: Any, heads: Any) -> bool:
    """A decoder of answers alone reads a question fused with the image, and nothing else was it trained for."""
    answers = "vqa" in heads and heads["vqa"].classifier is None
    if answers and "captioning" not in heads and "lm" not in heads:
        return False
    return getattr(model.decoder, "memory_width", None) in (None, states_width(model.vision))
