"""Exported CLIP ViT-B/32 with random weights against open_clip's eager model: milliseconds of CPU time on one thread.

    python experiments/benchmarks/deploy_latency.py [--rounds 7] [--measure inputs peak cold photo] [--folder FOLDER] [--tiny]

Photo and text at batch 1 by every artifact and by open_clip, alternating in one process; the share of the machine's matrix peak
that OpenVINO reaches at batch 32; the cold start of the runtime and of vlp.load, each in a process of its own; and a JPEG of 12
megapixels from the file to its embedding. Prints JSON. --folder: where weights and artifacts are kept for the next call; they take
most of the time. --tiny: a small model, to test the program.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import PIL.Image
import torch
import torch.nn.functional as F
from torch import nn

from vlp.deploy.export.export import ExportOptions, export
from vlp.deploy.export.golden import draw_pictures
from vlp.deploy.export.precision import convert
from vlp.deploy.runtime.engine import Engine, open_artifact
from vlp.deploy.runtime.manifest import Graph, read_manifest, write_manifest
from vlp.deploy.runtime.sessions import open_session
from vlp.predictor import load
from vlp.system.compat.torch import int8_product

TEXT = "a photo of two people who ride along a beach"  # 11 tokens between start and end
BATCH = 32
MATRIX = (1600, 768, 3072)  # rows, inputs and outputs of the product that is taken for the machine's peak
PARTS = ("inputs", "peak", "cold", "photo")
Times = dict[str, list[float]]


def random_clip(tiny: bool) -> nn.Module:
    """With norms that are not those of the start, so that every weight matters."""
    torch.manual_seed(0)
    vision: dict[str, Any] = {"image_size": 224, "patch_size": 32, "width": 768, "layers": 12}
    text: dict[str, Any] = {"width": 512, "heads": 8, "layers": 12}
    if tiny:
        vision, text = {**vision, "width": 64, "layers": 2}, {"width": 64, "heads": 1, "layers": 2}
    model = open_clip.CLIP(embed_dim=64 if tiny else 512, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.add_(0.1 * torch.randn_like(module.weight))
                module.bias.add_(0.1 * torch.randn_like(module.bias))
    return model


def cpu_milliseconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return 1000 * (time.process_time() - start)


def alternate(calls: Mapping[str, Callable[[], Any]], rounds: int) -> Times:
    """After one round that is not counted."""
    found: Times = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            elapsed = cpu_milliseconds(call)
            if number:
                found[name].append(elapsed)
    return found


def write_artifacts(weights: Path, folder: Path, quantised_pictures: int) -> dict[str, Path]:
    """float32 by ONNX Runtime; int8 weights by OpenVINO and by ONNX Runtime; static int8 of the photos' tower by OpenVINO."""
    first = folder / "float32"
    if not first.exists():
        predictor = load(weights, activation="quick_gelu")
        export(predictor, first, ExportOptions(only=("image", "text"), jpeg_multiple=2))
    pixels = open_artifact(first).load_pixels(draw_pictures(quantised_pictures))
    artifacts = {"float32 ONNX Runtime": first}
    kinds = {
        "float32 OpenVINO": ("bfloat16", "openvino", False), "int8 OpenVINO": ("int8", "openvino", False),
        "int8 ONNX Runtime": ("int8", "onnx", False), "int8 static OpenVINO": ("int8", "openvino", True),
    }  # fmt: skip
    for name, (precision, backend, static) in kinds.items():
        artifacts[name] = folder / name.replace(" ", "_")
        if artifacts[name].exists():
            continue
        unfinished = shutil.copytree(first, folder / "unfinished")
        manifest, _ = read_manifest(unfinished)
        calibration = [{"pixels": each[None]} for each in pixels] if static else None
        graphs: dict[str, Graph] = {
            graph: convert(unfinished, graph, record, precision, backend, calibration if graph == "image" else None)
            for graph, record in manifest.graphs.items()
        }
        precision = "float32" if name.startswith("float32") else precision
        write_manifest(unfinished, dataclasses.replace(manifest, precision=precision, graphs=graphs))
        unfinished.rename(artifacts[name])
    return artifacts


def measure_inputs(model: nn.Module, engines: Mapping[str, Engine], rounds: int) -> dict[str, Times]:
    any_engine = next(iter(engines.values()))
    pixels = any_engine.load_pixels(draw_pictures(1))
    mean, std = (
        torch.tensor(each).view(3, 1, 1) for each in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    normalised = (torch.from_numpy(pixels) / 255 - mean) / std
    tokens = open_clip.get_tokenizer("ViT-B-32-quickgelu")([TEXT])
    ids, mask = any_engine.tokenize([TEXT])

    def photo(engine: Engine) -> Callable[[], Any]:
        return lambda: engine.embed_pixels(pixels)

    def text(engine: Engine) -> Callable[[], Any]:
        return lambda: engine.embed_tokens(ids, mask)

    with torch.inference_mode():
        photos = {"open_clip": lambda: model.encode_image(normalised, normalize=True)}  # type: ignore[operator]
        texts = {"open_clip": lambda: model.encode_text(tokens, normalize=True)}  # type: ignore[operator]
        return {
            "photo": alternate(photos | {name: photo(engine) for name, engine in engines.items()}, rounds),
            "text": alternate(texts | {name: text(engine) for name, engine in engines.items()}, rounds),
        }


def matrix_peaks(rounds: int) -> dict[str, float]:
    """Operations a second of one thread, a multiplication and an addition counted as two: the best that torch reaches."""
    rows, width, wide = MATRIX
    x, weight = torch.randn(rows, width), torch.randn(wide, width)
    bytes_x, bytes_weight = (
        torch.randint(-128, 128, each, dtype=torch.int8) for each in ((rows, width), (width, wide))
    )
    pixels = x.view(1, rows, 1, width).permute(0, 3, 1, 2)
    calls = {
        "float32 as a product": lambda: F.linear(x, weight),
        "float32 as a convolution": lambda: F.conv2d(pixels, weight[:, :, None, None]),  # oneDNN's
        "int8": lambda: int8_product(bytes_x, bytes_weight),
    }
    with torch.inference_mode():
        best = {
            name: 2 * rows * width * wide / (min(times) / 1000) for name, times in alternate(calls, 4 * rounds).items()
        }
    return {"float32": max(value for name, value in best.items() if name != "int8"), "int8": best["int8"]}


def tower_operations(model: Any) -> float:
    """Of one photo: linear maps, attention and patches."""
    tower = model.visual
    width, tokens = tower.conv1.out_channels, tower.positional_embedding.shape[0]
    patch = tower.conv1.weight[0].numel()
    layer = 12 * width**2 * tokens + 2 * tokens**2 * width
    return 2.0 * (len(tower.transformer.resblocks) * layer + patch * width * (tokens - 1) + tower.proj.numel())


def measure_shares(model: nn.Module, artifacts: Mapping[str, Path], rounds: int) -> dict[str, float]:
    """Of the peak, by OpenVINO at batch 32."""
    peaks, operations = matrix_peaks(rounds), tower_operations(model)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 3, 224, 224), dtype=np.uint8)
    calls = {}
    for name in ("float32 OpenVINO", "int8 static OpenVINO"):
        manifest, _ = read_manifest(artifacts[name])
        session = open_session(artifacts[name], manifest.graphs["image"], precision=manifest.precision, threads=1)
        calls[name] = lambda session=session: session({"pixels": pixels})
    found = alternate(calls, rounds)
    shares = {
        name: BATCH * operations / (min(times) / 1000) / peaks["int8" if "int8" in name else "float32"]
        for name, times in found.items()
    }
    return {f"share {name}": round(share, 3) for name, share in shares.items()} | {
        f"peak {name} GOP/s": round(value / 1e9, 1) for name, value in peaks.items()
    }


_CHILD = """
import json, resource, sys
{code}
usage = resource.getrusage(resource.RUSAGE_SELF)
# not ru_maxrss, in which a process begins with what the one that started it had
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([usage.ru_utime + usage.ru_stime, int(peak) / 1024, "torch" in sys.modules]))
"""


def cold_start(code: str, runs: int = 3) -> dict[str, Any]:
    """From the start of Python to the first answer: CPU seconds and peak memory in MB, the least of some runs."""
    found = []
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-c", _CHILD.format(code=code)], capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "cpu_s": round(min(each[0] for each in found), 2), "mb": round(min(each[1] for each in found)), "torch": found[0][2],
    }  # fmt: skip


def measure_cold_starts(artifacts: Mapping[str, Path], weights: Path) -> dict[str, Any]:
    runtime = "from vlp.deploy.runtime.engine import open_artifact\nopen_artifact({folder!r}).embed_texts([{text!r}])"
    eager = f"import vlp\nvlp.load({str(weights)!r}, activation='quick_gelu').embed_texts([{TEXT!r}])"
    names = ("float32 ONNX Runtime", "int8 ONNX Runtime", "int8 OpenVINO")
    found = {name: cold_start(runtime.format(folder=str(artifacts[name]), text=TEXT)) for name in names}
    return {**found, "vlp.load": cold_start(eager, 1)}


def measure_photo_files(artifacts: Mapping[str, Path], folder: Path, rounds: int) -> Times:
    """A JPEG of 12 megapixels: enlarged drawings with noise, so that decoding costs what it costs of a photo."""
    drawn = np.asarray(draw_pictures(1)[0].resize((4000, 3000), PIL.Image.Resampling.BICUBIC)).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 6, drawn.shape)
    file = folder / "photo.jpg"
    PIL.Image.fromarray((drawn + noise).clip(0, 255).astype(np.uint8)).save(file, quality=85)
    calls = {}
    for name in ("float32 ONNX Runtime", "int8 OpenVINO", "int8 static OpenVINO"):
        engine = open_artifact(artifacts[name], threads=1)
        calls[name] = lambda engine=engine: engine.embed_images([file])
    return alternate(calls, rounds)


def medians(times: Times) -> dict[str, str]:
    """Milliseconds, and how many times as long the first one takes."""
    first = next(iter(times))
    return {
        name: f"{min(values):.1f} ms, {statistics.median(b / a for a, b in zip(values, times[first], strict=True)):.2f} ×"
        for name, values in times.items()
    }


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    model, weights = random_clip(options.tiny), folder / "weights.pt"
    if not weights.exists():
        torch.save(model.state_dict(), weights)
    artifacts = write_artifacts(weights, folder, 2 if options.tiny else 12)
    report: dict[str, Any] = {}
    if "inputs" in options.measure:
        engines = {name: open_artifact(artifact, threads=1) for name, artifact in artifacts.items()}
        found = measure_inputs(model, engines, options.rounds)
        report |= {kind: medians(times) for kind, times in found.items()}
    if "peak" in options.measure:
        report["peak"] = measure_shares(model, artifacts, options.rounds)
    if "cold" in options.measure:
        report["cold start"] = measure_cold_starts(artifacts, weights)
    if "photo" in options.measure:
        report["JPEG of 12 megapixels"] = medians(measure_photo_files(artifacts, folder, options.rounds))
    report["MB"] = {
        name: {
            file.name: round(file.stat().st_size / 2**20)
            for file in sorted(artifact.iterdir())
            if file.suffix in (".onnx", ".bin")
        }
        for name, artifact in artifacts.items()
    }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--measure", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(folder, options), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
