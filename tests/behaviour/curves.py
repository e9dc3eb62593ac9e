"""Twenty steps of many kinds of runs with the real command, to compare two trees on one machine, bit by bit.

    git worktree add ../before main && cd ../before && OMP_NUM_THREADS=1 python -m tests.behaviour.curves /tmp/before.json
    cd ../after && OMP_NUM_THREADS=1 python -m tests.behaviour.curves /tmp/after.json
    python -m tests.behaviour.curves --compare /tmp/before.json /tmp/after.json

The tree that contains this file is run. Names after the file select some of RUNS. For each run the file has the losses of all
steps, the figures at the end, and the sha256 of every tensor of the last checkpoint: weights, buffers, queues, momentum model,
averages and optimizer state. A refactor must not change any of them. A renamed tensor counts as missing, because existing
checkpoints store its old name.

Numbers depend on the processor, on the number of threads and on the versions of libraries, so these files are not stored in the
repository. Numbers with tolerances are stored in tests/behaviour/loss_curves.json and tests/behaviour/kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20
# All overrides of the runs are in this table, so that a renamed key is changed only here.
SCENES = (
    "images.train=160",
    "images.val=8",
    "images.test=8",
    "size=32",
    "batch_size=8",
    "eval_batch_size=4",
    "num_workers=0",
)
COMMON = (
    "trainer.max_epochs=1", "trainer.log_every_n_steps=1", "trainer.deterministic=true", "logger=none", "tokenizer.size=300",
    "tokenizer.context_length=40",
)  # fmt: skip
SCENES_RUN = (
    *COMMON,
    "callbacks=[checkpoint]",
    "data.root=scenes",
    "data.captions=one",
    *(f"data.{word}" for word in SCENES),
)
TINY = ("model.vision.image_size=32", "model.vision.channels=4", "model.text.width=32", "model.text.heads=2")
TRANSFORMER = ("model.vision.image_size=32", "model.vision.patch_size=8", "model.vision.width=64", "model.vision.layers=2",
               "model.vision.heads=2")  # fmt: skip
TEXT = ("model.text.width=64", "model.text.layers=2", "model.text.heads=2")
FUSION = ("model.fusion.width=32", "model.fusion.layers=2", "model.fusion.heads=2")
CLIP = ("model=clip_tiny", *TINY, "model.projection.width=32", "task=[retrieval]")
ALBEF = (
    "model=albef_tiny", *TINY, *FUSION, "model.text.dropout=0.1", "model.projection.width=16", "objective=[itc,itm,mlm]",
    "momentum=0.9", "objectives.itc.queue_size=21", "objectives.itc.distillation=0.4", "objectives.itc.distillation_warmup=10",
    "objectives.itm.momentum=true", "objectives.mlm.distillation=0.4", "task=[retrieval]", "tasks.retrieval.rerank=4",
)  # fmt: skip
VILT = (
    "model=vilt_tiny", "model.vision.image_size=32", "model.vision.width=32", "model.text.width=32", "model.text.heads=2", *FUSION,
    "model.fusion.dropout=0.1", "objective=[itm,mlm,wpa]", "objectives.itm.contrastive=false", "task=[matching]",
    "tasks.matching.contrastive=false", "monitor=val/scenes/matching/accuracy",
)  # fmt: skip
DECODER = ("model.decoder.width=32", "model.decoder.heads=2")
CAPTIONS = (
    "model=encoder_decoder_tiny", "model.vision.image_size=32", "model.vision.channels=4", *DECODER, "objective=[lm]",
    "task=[captioning]", "monitor=val/scenes/captioning/cider_d",
)  # fmt: skip
ANSWERS = ("model=encoder_decoder_vqa_tiny", *TINY, *FUSION, *DECODER)
QUESTIONS = (
    *ANSWERS, *(word for word in SCENES_RUN if word != "data.captions=one"), "data=scenes_vqa", "data.max_train_samples=160",
    "objective=[]", "task=[vqa]", "tasks.vqa.weight=1.0", "monitor=val/scenes_vqa/vqa/accuracy",
)  # fmt: skip
MIXTURE = (
    *ANSWERS, *COMMON, "callbacks=[checkpoint]", "data=mixture", "data.epoch=20", "data.sources.scenes.root=scenes",
    *(f"data.sources.scenes.{word}" for word in SCENES), "data.sources.scenes_vqa.batch_size=8",
    "data.sources.scenes_vqa.eval_batch_size=16", "data.sources.scenes_vqa.num_workers=0", "objective=[lm]",
    "task=[captioning,vqa]", "tasks.vqa.weight=1.0", "monitor=val/scenes_vqa/vqa/accuracy",
)  # fmt: skip
SHARDS = (
    *CLIP, *COMMON, "callbacks=[checkpoint]", "data=shards", "data.root=shards", "data.cache=cache", "data.batch_size=8",
    "data.eval_batch_size=4", "data.num_workers=0", "data.block=2", "monitor=val/shards/retrieval/rsum",
)  # fmt: skip
PACK = (
    "data",
    "pack",
    "shards",
    "data=scenes",
    "data.root=scenes",
    *(f"data.{word}" for word in SCENES),
    "--samples",
    "40",
)
RUNS: dict[str, tuple[str, ...]] = {
    "clip_tiny": (*CLIP, *SCENES_RUN),
    "clip_vit": ("model=clip_vit_b32", *TRANSFORMER, *TEXT, "model.projection.width=32", "task=[retrieval]", *SCENES_RUN),
    "clip_resnet": (
        "model=clip_rn50", "model.vision.image_size=32", "model.vision.layers=[1,1,1,1]", "model.vision.stem_width=8",
        "model.vision.heads=4", "model.vision.width=32", *TEXT, "task=[retrieval]", *SCENES_RUN,
    ),
    "siglip": (
        "model=siglip", *TRANSFORMER, *TEXT, "model.projection.width=32", "objective=[siglip]", "task=[retrieval]", *SCENES_RUN,
    ),
    "albef": (*ALBEF, *SCENES_RUN),
    "vilt": (*VILT, *SCENES_RUN),
    "captions": (*CAPTIONS, *SCENES_RUN),
    "questions": QUESTIONS,
    "mixture": MIXTURE,
    "shards": SHARDS,
    "two_processes": (
        *CLIP, *SCENES_RUN, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true",
    ),
    "muon_averaged": (*CLIP, *SCENES_RUN, "optimizer=muon", "optimizer.convolutions=true", "callbacks=[checkpoint,ema]"),
    "accumulated": (
        *CAPTIONS, *SCENES_RUN, "trainer.accumulate_grad_batches=2", "trainer.max_epochs=2", "freeze=['^model.vision']",
    ),
    "gradient_cache": (*CLIP, *SCENES_RUN, "gradient_cache=3", "schedule=constant"),
}  # fmt: skip


def run_command(folder: Path, *command: str) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE", "VLP_FAULTS")
    }
    environment |= {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


def record_run(name: str, folder: Path) -> dict[str, Any]:
    """Losses by step, figures, and the sha256 of each tensor of one of RUNS.  folder: for runs and their data."""
    if name == "shards" and not (folder / "shards").exists():
        run_command(folder, "-m", "vlp.cli", *PACK)
    run_command(folder, str(ROOT / "train.py"), *RUNS[name], f"name={name}")
    (run_folder,) = (folder / "runs" / name).iterdir()
    logged = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    losses = [
        {key: value for key, value in line.items() if key.startswith("train/") and key.endswith("/loss")}
        for line in logged
    ]
    results = json.loads((run_folder / "results.json").read_text())
    return {
        "losses": [line for line in losses if line],
        "figures": {key: value for key, value in results.items() if key.count("/") == 3 and "second" not in key},
        "tensors": tensors(run_folder / "checkpoints" / "last.ckpt"),
    }


def tensors(checkpoint: Path) -> dict[str, str]:
    """The sha256 of type, shape and bytes of each tensor, by its path of keys."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    parts = ("state_dict", "current_model_state", "optimizer_states")
    return dict(_tensor_hashes({part: content[part] for part in parts if part in content}))


def _tensor_hashes(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, torch.Tensor):
        described = f"{node.dtype} {tuple(node.shape)} ".encode()
        content = node.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() if node.numel() else b""
        yield path, hashlib.sha256(described + content).hexdigest()
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _tensor_hashes(value, f"{path}/{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _tensor_hashes(value, f"{path}/{index}")


def find_differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """A sentence for each run whose numbers differ or that is only in one of the two."""
    messages = []
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second:
            messages.append(f"{name}: only the {'second' if name not in first else 'first'} file has it")
        elif sentences := list(_run_differences(first[name], second[name])):
            messages.append(f"{name}: {'; '.join(sentences)}")
    return messages


def _run_differences(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    if len(first["losses"]) != len(second["losses"]):
        yield f"{len(first['losses'])} steps became {len(second['losses'])}"
    pairs = zip(first["losses"], second["losses"], strict=False)
    step = next((step for step, (a, b) in enumerate(pairs) if a != b), None)
    if step is not None:
        yield f"losses differ from step {step} on: {first['losses'][step]} became {second['losses'][step]}"
    for kind in ("figures", "tensors"):
        before, after = first[kind], second[kind]
        lost, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
        changed = sorted(key for key in before.keys() & after.keys() if before[key] != after[key])
        for what, names in (("are missing", lost), ("are new", new), ("differ", changed)):
            if names:
                yield f"{len(names)} of {len(before)} {kind} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def record_runs(file: Path, names: Sequence[str]) -> None:
    recorded = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            start = time.perf_counter()
            recorded[name] = record_run(name, Path(folder))
            count, last = len(recorded[name]["losses"]), recorded[name]["losses"][-1]
            print(f"{name}: {count} losses, the last {last}; {time.perf_counter() - start:.0f} s", flush=True)
            file.write_text(json.dumps(recorded, indent=1) + "\n")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.behaviour.curves", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="two files that this has written"
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="OUT", help="JSON to write")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}; all when none is given")
    options = parser.parse_args(arguments)
    if options.compare:
        first, second = (json.loads(file.read_text()) for file in options.compare)
        messages = find_differences(first, second)
        print("\n".join(messages) if messages else f"equal: {', '.join(first)}")
        return int(bool(messages))
    if options.file is None:
        parser.error("name the JSON file to write, or --compare BEFORE AFTER")
    if unknown := [name for name in options.names if name not in RUNS]:
        parser.error(f"there is no {', '.join(unknown)}; choose from {', '.join(RUNS)}")
    record_runs(options.file, options.names or list(RUNS))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
