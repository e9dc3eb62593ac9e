"""One graph of an artifact as a function of named arrays, by ONNX Runtime or by OpenVINO; any number of threads may call it.

ONNX Runtime uses an NVIDIA or AMD GPU where its package for it is installed (onnxruntime-gpu), and else the CPU. A GPU computes
float32 in float32, without TF32's shorter mantissa.
"""

from __future__ import annotations

import functools
import importlib
import queue
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlp.deploy.runtime.manifest import Graph
from vlp.system.errors import UserError

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
_PROVIDERS: dict[str, dict[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}, "MIGraphXExecutionProvider": {}}
_OPENVINO_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}  # of int8: what OpenVINO takes for the layers in between


def open_session(folder: Path, graph: Graph, *, precision: str, threads: int | None = None) -> Run:
    """threads: of one call; None = all cores.  Raises UserError where the library is not installed or cannot read the file, and
    where the graph has other inputs or outputs than the manifest says."""
    require_threads(threads)
    opened = _open_onnx if graph.backend == "onnx" else _open_openvino
    run, inputs, outputs = opened(folder / graph.file, precision, threads)
    for kind, expected, present in (("input", graph.inputs, inputs), ("output", graph.outputs, outputs)):
        if other := set(expected) ^ present:
            lists = "the manifest" if min(other) in expected else "the graph"
            raise UserError(
                f"{folder / graph.file}: {lists} alone has an {kind} {min(other)}: write the artifact again with vlp export"
            )
    return run


def require_threads(threads: int | None) -> None:
    """Raises UserError for a number that is none of threads."""
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise UserError(f"threads={threads!r}: give at least 1, or none for all cores")


def _import(name: str, fix: str, file: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{file} needs {name}, which is not installed: {fix}") from error


@functools.cache
def _openvino_core(library: Any) -> Any:
    """One for the process, never freed: with the last of them OpenVINO unloads its plugins, while their threads may still run."""
    return library.Core()


def _unreadable(file: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:300]
    return UserError(f"{file}: cannot be loaded ({reason}); write the artifact again with vlp export")


def _open_onnx(file: Path, precision: str, threads: int | None) -> tuple[Run, set[str], set[str]]:
    library = _import("onnxruntime", "pip install 'vlp[serve]'", file)
    options = library.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # one is kept for each new shape, and batches and lengths have thousands
    options.log_severity_level = 3  # errors alone
    present = library.get_available_providers()
    providers = [(name, options) for name, options in _PROVIDERS.items() if name in present]
    try:
        session = library.InferenceSession(str(file), options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # of several kinds, which the library does not export
        raise _unreadable(file, error) from error
    outputs = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(outputs, session.run(outputs, dict(feeds)), strict=True))

    return run, {each.name for each in session.get_inputs()}, set(outputs)


def _open_openvino(file: Path, precision: str, threads: int | None) -> tuple[Run, set[str], set[str]]:
    library = _import("openvino", "pip install 'vlp[openvino]'", file)
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    if precision in _OPENVINO_PRECISIONS:
        settings["INFERENCE_PRECISION_HINT"] = _OPENVINO_PRECISIONS[precision]
    try:
        compiled = _openvino_core(library).compile_model(str(file), "CPU", settings)
    except Exception as error:
        raise _unreadable(file, error) from error
    inputs, outputs = ({each.get_any_name() for each in ports} for ports in (compiled.inputs, compiled.outputs))
    idle: queue.SimpleQueue[Any] = queue.SimpleQueue()  # requests; each serves one call at a time

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            request = idle.get_nowait()
        except queue.Empty:
            request = compiled.create_infer_request()
        results = request.infer(dict(feeds), share_inputs=True)
        arrays = {
            port.get_any_name(): np.array(value) for port, value in results.items()
        }  # copies: the request's are reused
        idle.put(request)
        return arrays

    return run, inputs, outputs
