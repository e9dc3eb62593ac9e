"""Twenty steps of many kinds of runs by the real command, for the comparison of two trees on one machine, bit for bit.

    git worktree add ../before main && cd ../before && OMP_NUM_THREADS=1 python -m tests.behaviour.curves /tmp/before.json
    cd ../after && OMP_NUM_THREADS=1 python -m tests.behaviour.curves /tmp/after.json
    python -m tests.behaviour.curves --compare /tmp/before.json /tmp/after.json

The tree that is run is the one that this file lies in. Names after the file choose some of RUNS. Of each run are written the
losses of all steps, the figures at its end, and the sha256 of every tensor of its last checkpoint: weights, buffers, queues,
momentum copy, averages and optimizer state. A refactor leaves all of them equal. A tensor that was renamed counts as missing,
for a name in a state dict is a promise to the checkpoints that exist.

Numbers depend on the processor, on the number of threads and on the versions of libraries, so nothing of this is kept; what
is kept, with tolerances, is in tests/behaviour/loss_curves.json and tests/behaviour/kept.
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
# Everything that a run is made of stands in this table, so that a word that was renamed is changed here alone.
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
ONE = (*COMMON, "callbacks=[checkpoint]", "data.root=scenes", "data.captions=one", *(f"data.{word}" for word in SCENES))
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
    *ANSWERS, *(word for word in ONE if word != "data.captions=one"), "data=scenes_vqa", "data.max_train_samples=160",
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
    "clip_tiny": (*CLIP, *ONE),
    "clip_vit": ("model=clip_vit_b32", *TRANSFORMER, *TEXT, "model.projection.width=32", "task=[retrieval]", *ONE),
    "clip_resnet": (
        "model=clip_rn50", "model.vision.image_size=32", "model.vision.layers=[1,1,1,1]", "model.vision.stem_width=8",
        "model.vision.heads=4", "model.vision.width=32", *TEXT, "task=[retrieval]", *ONE,
    ),
    "siglip": (
        "model=siglip", *TRANSFORMER, *TEXT, "model.projection.width=32", "objective=[siglip]", "task=[retrieval]", *ONE,
    ),
    "albef": (*ALBEF, *ONE),
    "vilt": (*VILT, *ONE),
    "captions": (*CAPTIONS, *ONE),
    "questions": QUESTIONS,
    "mixture": MIXTURE,
    "shards": SHARDS,
    "two_processes": (
        *CLIP, *ONE, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true",
    ),
    "muon_averaged": (*CLIP, *ONE, "optimizer=muon", "optimizer.convolutions=true", "callbacks=[checkpoint,ema]"),
    "accumulated": (*CAPTIONS, *ONE, "trainer.accumulate_grad_batches=2", "trainer.max_epochs=2", "freeze=['^model.vision']"),
    "gradient_cache": (*CLIP, *ONE, "gradient_cache=3", "schedule=constant"),
}  # fmt: skip


def call(folder: Path, *command: str) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE", "VLP_FAULTS")
    }
    environment |= {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


def run(name: str, folder: Path) -> dict[str, Any]:
    """Losses by step, figures, and the sha256 of each tensor, of one of RUNS; `folder` holds the data of all of them."""
    if name == "shards" and not (folder / "shards").exists():
        call(folder, "-m", "vlp.cli", *PACK)
    call(folder, str(ROOT / "train.py"), *RUNS[name], f"name={name}")
    (made,) = (folder / "runs" / name).iterdir()
    logged = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    losses = [
        {key: value for key, value in line.items() if key.startswith("train/") and key.endswith("/loss")}
        for line in logged
    ]
    results = json.loads((made / "results.json").read_text())
    return {
        "losses": [line for line in losses if line],
        "figures": {key: value for key, value in results.items() if key.count("/") == 3 and "second" not in key},
        "tensors": tensors(made / "checkpoints" / "last.ckpt"),
    }


def tensors(checkpoint: Path) -> dict[str, str]:
    """The sha256 of type, shape and bytes of each tensor, by the keys that lead to it."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    parts = ("state_dict", "current_model_state", "optimizer_states")
    return dict(_hashed({part: content[part] for part in parts if part in content}))


def _hashed(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, torch.Tensor):
        described = f"{node.dtype} {tuple(node.shape)} ".encode()
        content = node.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() if node.numel() else b""
        yield place, hashlib.sha256(described + content).hexdigest()
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _hashed(value, f"{place}/{key}" if place else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _hashed(value, f"{place}/{index}")


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """A sentence for each run whose numbers are not equal in both, or that only one of them has."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            found.append(f"{name}: only the {'second' if name not in one else 'first'} file has it")
        elif sentences := list(_of_a_run(one[name], other[name])):
            found.append(f"{name}: {'; '.join(sentences)}")
    return found


def _of_a_run(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    if len(one["losses"]) != len(other["losses"]):
        yield f"{len(one['losses'])} steps became {len(other['losses'])}"
    pairs = zip(one["losses"], other["losses"], strict=False)
    step = next((step for step, (a, b) in enumerate(pairs) if a != b), None)
    if step is not None:
        yield f"losses differ from step {step} on: {one['losses'][step]} became {other['losses'][step]}"
    for kind in ("figures", "tensors"):
        before, after = one[kind], other[kind]
        lost, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
        changed = sorted(key for key in before.keys() & after.keys() if before[key] != after[key])
        for what, names in (("are missing", lost), ("are new", new), ("differ", changed)):
            if names:
                yield f"{len(names)} of {len(before)} {kind} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def record(file: Path, names: Sequence[str]) -> None:
    recorded = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            start = time.perf_counter()
            recorded[name] = run(name, Path(folder))
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
        one, other = (json.loads(file.read_text()) for file in options.compare)
        found = differences(one, other)
        print("\n".join(found) if found else f"equal: {', '.join(one)}")
        return int(bool(found))
    if options.file is None:
        parser.error("name the JSON file to write, or --compare BEFORE AFTER")
    if unknown := [name for name in options.names if name not in RUNS]:
        parser.error(f"there is no {', '.join(unknown)}; choose from {', '.join(RUNS)}")
    record(options.file, options.names or list(RUNS))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
