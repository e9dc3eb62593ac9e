"""Peak memory of one CLIP ViT-B/32 training step at 224 px: a large batch with the gradient cache against a small one without.

`python experiments/benchmarks/gradient_cache_memory.py` prints the largest relative difference between a gradient with and
without the cache, for a batch that fits into memory both ways; then, measured in a new process each, the peaks of resident
memory (from the operating system) and their ratio. Pixels are uint8, texts have the lengths of captions.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from vlp.build import build
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.models.features import compute_features
from vlp.objectives.itc import ITC
from vlp.structures import Batch, Image, Text
from vlp.training.optimizer import AdamW


def model_and_batch(batch_size: int) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    config = resolve_config(
        Composer(conf=conf_folder(), config_name="train").compose(["model=clip_vit_b32"]), Path("run")
    )
    length = torch.randint(8, 28, (batch_size,))
    mask = torch.arange(28)[None] < length[:, None]
    index = torch.arange(batch_size)
    batch = Batch(
        id=index,
        sample=index,
        seed=index,
        image=Image(pixels=torch.randint(0, 256, (batch_size, 3, 224, 224), dtype=torch.uint8)),
        caption=Text(ids=torch.randint(1, 500, (batch_size, 28)) * mask, mask=mask),
    )
    return build(config["model"]), batch


def run_backward(model: nn.Module, batch: Batch, chunk: int | None) -> float:
    """Computes the gradients; returns the loss."""
    objective = ITC()
    features = compute_features(model, batch, objective.uses, chunk=chunk)
    loss = objective(model, batch, features).value
    loss.backward()
    return float(loss.detach())


def print_step(batch_size: int, chunk: int | None) -> None:
    """Runs one training step and prints peak memory in GiB, seconds and loss."""
    model, batch = model_and_batch(batch_size)
    optimizer = AdamW(lr=1e-5)(model)
    start = time.perf_counter()
    loss = run_backward(model, batch, chunk)
    optimizer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{peak:.3f} {time.perf_counter() - start:.1f} {loss:.4f}")


def gradient_difference(batch_size: int, chunk: int) -> float:
    """The largest |g_cached - g_plain| of any parameter over the largest |g_plain| of that parameter."""
    model, batch = model_and_batch(batch_size)
    run_backward(model, batch, None)
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    run_backward(model, batch, chunk)
    return max(
        float((parameter.grad - plain[name]).abs().max() / plain[name].abs().max().clamp(min=1e-12))
        for name, parameter in model.named_parameters()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--compared", type=int, default=64, help="batch whose gradients are compared, in four chunks")
    parser.add_argument("--step", nargs=2, type=int, help=argparse.SUPPRESS)  # batch and chunk of the new process
    options = parser.parse_args()
    if options.step:
        print_step(options.step[0], options.step[1] or None)
        return
    compared, chunk = options.compared, options.compared // 4
    difference = gradient_difference(compared, chunk)
    print(
        f"largest relative difference of a gradient, batch {compared}, chunks of {chunk} against none: {difference:.1e}",
        flush=True,
    )
    peaks = {}
    for name, arguments in (("plain", (options.chunk, 0)), ("cached", (options.batch, options.chunk))):
        command = [sys.executable, __file__, "--step", *map(str, arguments)]
        peak, seconds, loss = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        peaks[name] = float(peak)
        print(f"{name}: batch {arguments[0]}, peak {float(peak):.2f} GiB, {seconds} s, loss {loss}", flush=True)
    print(f"ratio {peaks['cached'] / peaks['plain']:.3f}")


if __name__ == "__main__":
    main()
