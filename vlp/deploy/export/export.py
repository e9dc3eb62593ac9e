"""A checkpoint → an artifact: a folder that `vlp.deploy.runtime` runs without torch, or nothing where it would answer otherwise.

vlp export runs/scenes/… artifact --precision int8 --gate data=flickr8k
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlp.data.transforms import EvalTransform, MinMaxTransform
from vlp.deploy.export.destination import check_destination, written_folder
from vlp.deploy.export.gate import GateError, Measured, Run, compare_generated, measure_graph
from vlp.deploy.export.golden import GoldenInputs, draw_pictures
from vlp.deploy.export.latency import measure_latency
from vlp.deploy.export.onnx_graphs import export_onnx
from vlp.deploy.export.parity_file import check_inputs, compare_file, write_parity
from vlp.deploy.export.plan import Plan, plan_graphs
from vlp.deploy.export.precision import choose_backend, convert
from vlp.deploy.export.readme import write_readme
from vlp.deploy.export.recall_gate import RecallComparison, compare_recall, read_samples
from vlp.deploy.export.sections import captioning_task, describe, reads_texts
from vlp.deploy.export.tokenizer_file import write_tokenizer
from vlp.deploy.export.transform_spec import to_spec, write_transform
from vlp.deploy.export.verb_gate import compare_verbs
from vlp.deploy.runtime.abilities import possible_verbs
from vlp.deploy.runtime.engine import open_artifact
from vlp.deploy.runtime.manifest import Graph, Manifest, write_manifest
from vlp.deploy.runtime.preprocess import PicturePreprocessing
from vlp.deploy.runtime.sessions import open_session
from vlp.launch.runs.results import git_commit
from vlp.structures import Image, height_and_width
from vlp.system.errors import UserError

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
CALIBRATION_IMAGES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """precision: float32, bfloat16 or int8.  only: names of graphs; none = all.  gate, calibrate: overrides that name a data set,
    of whose test photos recall is measured, and by whose training photos static int8 chooses its ranges.
    square: of ViLT, whose pictures have several sizes: all become squares of the tower's size.
    jpeg_multiple: see `vlp.deploy.runtime.preprocess`; the artifact then sees large JPEGs slightly otherwise than the
    checkpoint."""

    precision: str = "float32"
    only: Sequence[str] = ()
    gate: Sequence[str] = ()
    calibrate: Sequence[str] = ()
    square: bool = False
    jpeg_multiple: int | None = None

    def __post_init__(self) -> None:
        choose_backend(self.precision, static=bool(self.calibrate))


def export(predictor: Any, folder: Path, options: ExportOptions | None = None) -> Manifest:
    """predictor: of `vlp.load`, on the CPU.  Raises UserError for what cannot be exported and for an artifact that would answer
    otherwise; then nothing is written."""
    options = options or ExportOptions()
    check_destination(folder)
    plan = plan_graphs(predictor, options.only)
    plan = _without_sampling(plan, predictor.objectives)
    if options.gate and not {"image", "text"} <= plan.graphs.keys():
        raise UserError("--gate measures retrieval, and this export has no graphs of images and texts: leave it out")
    predictor.model.eval()
    if any("pixels" in graph.inputs or "image_states" in graph.inputs for graph in plan.graphs.values()):
        _use_square_pictures(predictor, options.square)
        preprocessing = to_spec(predictor.transform, jpeg_multiple=options.jpeg_multiple)
    else:
        preprocessing = None
    golden = _golden_inputs(predictor, plan, preprocessing)
    if golden.pixels is not None:  # a tower that resizes its positions says so once, and not while it is traced
        with torch.no_grad():
            predictor.model.encode_image(Image(pixels=golden.pixels[:1]))
    samples = read_samples(options.gate) if options.gate else None
    with written_folder(folder) as temporary:
        manifest = _write(predictor, plan, golden, preprocessing, options, temporary)
        manifest = _judge(predictor, plan, golden, preprocessing, samples, manifest, temporary)
    return manifest


def _write(
    predictor: Any,
    plan: Plan,
    golden: GoldenInputs,
    preprocessing: PicturePreprocessing | None,
    options: ExportOptions,
    folder: Path,
) -> Manifest:
    backend = choose_backend(options.precision, static=bool(options.calibrate))
    longest = {
        "length": golden.context_length or 1, "question": golden.context_length or 1, "past": max(1, golden.decoder_length - 1),
    }  # fmt: skip
    graphs = {}
    for name, graph in plan.graphs.items():
        example = golden.of(graph, 3, 5)
        bounds = longest | ({"length": golden.decoder_length} if name.endswith("prefill") else {})
        export_onnx(graph, example, bounds, folder / f"{name}.onnx")
        data = (f"{name}.onnx.data",) if (folder / f"{name}.onnx.data").exists() else ()
        written = Graph(file=f"{name}.onnx", backend="onnx", inputs=graph.inputs, outputs=graph.outputs, data=data)
        calibration = _calibration(predictor, options.calibrate) if options.calibrate and name == "image" else None
        graphs[name] = convert(folder, name, written, options.precision, backend, calibration)
    if preprocessing is not None:
        write_transform(preprocessing, folder)
    if reads_texts(plan):
        write_tokenizer(predictor.require_tokenizer(), folder)
    return Manifest(
        version=version("vlp"),
        commit=git_commit(),
        checkpoint=tensors_sha256(predictor),
        precision=options.precision,
        image_size=None if preprocessing is None else preprocessing.size,
        verbs=possible_verbs(graphs),
        graphs=graphs,
        versions={name: found for name in PACKAGES if (found := _version(name)) is not None},
        machine={"processor": platform.machine(), "flags": processor_flags()},
        **describe(predictor, plan, golden.pixels),
    )


def _judge(
    predictor: Any, plan: Plan, golden: GoldenInputs, preprocessing: PicturePreprocessing | None,
    samples: Sequence[Any] | None, manifest: Manifest, folder: Path,
) -> Manifest:  # fmt: skip
    """The manifest with what was measured.  Raises UserError where it is not good enough."""
    runs = {name: _runner(folder, graph, manifest.precision, None) for name, graph in manifest.graphs.items()}
    check_inputs(predictor, folder, manifest)
    measured = [
        measure_graph(plan.graphs[name], run, golden, precision=manifest.precision) for name, run in runs.items()
    ]
    recall = _measure_recall(predictor, plan, runs, preprocessing, samples)
    for fault in _faults(measured, recall):
        raise GateError(fault)
    compare_generated(plan.graphs, runs, golden)
    write_parity(predictor, plan, golden, folder)
    compare_file(folder, runs, {each.graph for each in measured if each.precise})
    single = {name: _runner(folder, graph, manifest.precision, 1) for name, graph in manifest.graphs.items()}
    parity: dict[str, Any] = {
        "graphs": {each.graph: _rounded(each) for each in measured},
        "latency_ms": measure_latency(plan.graphs, single, golden),
        "left_out": plan.left_out,
    }
    if recall is not None:
        parity["recall"] = dataclasses.asdict(recall)
    manifest = dataclasses.replace(manifest, parity=parity)
    write_readme(folder, manifest)
    written = write_manifest(folder, manifest)
    if manifest.precision == "float32":
        compare_verbs(predictor, open_artifact(folder, verify=False))
    return written


def _faults(measured: Iterable[Measured], recall: RecallComparison | None) -> Iterable[str]:
    for each in measured:
        if (fault := each.fault(by_recall=recall is not None)) is not None:
            yield fault
    if recall is not None and (fault := recall.fault()) is not None:
        yield fault


def _runner(folder: Path, graph: Graph, precision: str, threads: int | None) -> Run:
    run = open_session(folder, graph, precision=precision, threads=threads)

    def call(inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        found = run({name: np.ascontiguousarray(inputs[name].numpy()) for name in graph.inputs})
        return {name: found[name] for name in graph.outputs}

    return call


def _golden_inputs(predictor: Any, plan: Plan, preprocessing: PicturePreprocessing | None) -> GoldenInputs:
    model, tokenizer = predictor.model, predictor.require_tokenizer() if reads_texts(plan) else None
    pixels = None if preprocessing is None else torch.stack([predictor.transform(each) for each in draw_pictures()])
    parts: list[Any] = [tokenizer, model.text]
    limits = [part.context_length for part in parts if hasattr(part, "context_length")]
    segmentation = predictor.objectives["segmentation"] if "segment" in plan.graphs else None
    return GoldenInputs(
        model=model,
        pixels=pixels,
        rules=None if tokenizer is None else tokenizer.rules,
        vocabulary_size=0 if tokenizer is None else tokenizer.size,
        context_length=min(limits) if limits and tokenizer is not None else 0,
        decoder_length=getattr(model.decoder, "context_length", 0),
        window=None if segmentation is None else segmentation.window,
    )


def _without_sampling(plan: Plan, heads: Any) -> Plan:
    if "prefill" not in plan.graphs or captioning_task(heads).top_p is None:
        return plan
    graphs = {name: graph for name, graph in plan.graphs.items() if name not in ("prefill", "step")}
    left_out = plan.left_out | {"captions": "they are sampled (tasks.captioning.top_p), which stays with torch"}
    return dataclasses.replace(plan, graphs=graphs, left_out=left_out)


def _use_square_pictures(predictor: Any, square: bool) -> None:
    if not isinstance(predictor.transform, MinMaxTransform):
        if square:
            raise UserError("--square is for pictures of several sizes, and this checkpoint's have one: leave it out")
        return
    size = predictor.model.vision.image_size
    if not square:
        raise UserError(
            f"this checkpoint reads pictures of several sizes, and a graph reads one: give --square, and all become squares of "
            f"{size} pixels"
        )
    predictor.transform = EvalTransform(image_size=height_and_width(size), mode="squash", rgb="first")


def _measure_recall(
    predictor: Any,
    plan: Plan,
    runs: Mapping[str, Run],
    preprocessing: PicturePreprocessing | None,
    samples: Sequence[Any] | None,
) -> RecallComparison | None:
    if samples is None or preprocessing is None:
        return None
    tokenizer = predictor.require_tokenizer()

    def tokenize(texts: list[str]) -> tuple[Tensor, Tensor]:
        text = tokenizer(texts)
        return text.ids, text.mask

    return compare_recall(
        samples,
        graphs=plan.graphs,
        runs=dict(runs),
        load_pixels=lambda paths: predictor.load_pixels(paths).pixels,
        load_artifact_pixels=lambda paths: torch.from_numpy(preprocessing.load(paths).pixels),
        tokenize=tokenize,
    )


def _calibration(predictor: Any, overrides: Sequence[str]) -> Iterable[dict[str, np.ndarray]]:
    """Pixels of training photos, one by one."""
    from vlp.curation.composed_data import build_only_source

    data = build_only_source(overrides, "vlp export --calibrate reads")
    samples = data.split("train")
    if not len(samples):
        raise UserError(f"--calibrate: {data.name} has no training images: give another data set")
    for sample in itertools.islice(samples, CALIBRATION_IMAGES):
        yield {"pixels": predictor.load_pixels([sample.image]).pixels.numpy()}


def tensors_sha256(predictor: Any) -> str:
    """Of the names, types and values of all weights, whatever file they came from."""
    digest = hashlib.sha256()
    for part in (predictor.model, predictor.objectives):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else
                          str(tensor.item()).encode())  # fmt: skip
    return digest.hexdigest()


def processor_flags() -> list[str]:
    """Of the instructions that low precisions are fast with; empty where the machine does not say."""
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    present = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    return [flag for flag in known if flag in present]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _rounded(measured: Measured) -> dict[str, float]:
    values = dataclasses.asdict(measured)
    return {name: float(f"{values[name]:.3g}" if name in ("difference", "alone") else f"{values[name]:.6f}") for name in
            ("difference", "alone", "cosine", "cosine_alone")}  # fmt: skip
