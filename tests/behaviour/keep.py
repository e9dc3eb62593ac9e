"""Makes the run folders of tests/behaviour/kept: `python -m tests.behaviour.keep FOLDER KEPT`; both folders must not exist.

Users have such run folders on their disks, and test_kept_runs.py checks that later versions read them. They were written by
the version before the first renaming and are never replaced: when a run stores other things, add a second set.

Runs start in FOLDER with relative paths, so that they contain no name of a machine, and files about processes are deleted. One
run of a dual encoder is killed during its second validation, one of ALBEF after its sixth step, one job of a sweep after its
third. Another run of ALBEF and the other job finish. The same runs without an interruption give expected.json.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image

import vlp
from tests.runs import logged_lines

ROOT = Path(__file__).resolve().parents[2]
CONF = Path(__file__).with_name("kept") / "conf"
COMMON = (
    "data.root=scenes", "data.images.train=32", "data.images.val=12", "data.images.test=12", "data.size=32", "data.batch_size=8",
    "data.eval_batch_size=4", "data.num_workers=0", "data.captions=one", "tokenizer.size=270", "tokenizer.context_length=40",
    "model.text.width=8", "model.text.layers=1", "model.text.heads=2", "model.projection.width=8", "task=[retrieval]",
    "logger=none", "trainer.log_every_n_steps=1", "callbacks.checkpoint.full_disk=continue",
    "callbacks.checkpoint.every_n_train_steps=1",
)  # fmt: skip
DUAL = (
    "name=dual", "seed=1", *COMMON, "model/vision=two_towers", "model/text=text_tiny", "optimizer=muon",
    "optimizer.matrix_lr=0.002", "optimizer.convolutions=true",
    "schedule=warmup_linear", "schedule.warmup=2", "schedule.minimum=0.2", "callbacks=[checkpoint,progress,ema]",
    "callbacks.ema.decay=0.8", "callbacks.checkpoint.mode=min", "trainer.max_epochs=3",
)  # fmt: skip
ALBEF = (
    "name=albef", *COMMON, "model=albef_tiny", "model.vision.image_size=32", "model.vision.channels=2", "model.fusion.width=8",
    "model.fusion.layers=1", "model.fusion.heads=2", "objective=[itc,itm,mlm]", "objectives.itc.queue_size=13",
    "objectives.itc.distillation=0.4", "objectives.itc.distillation_warmup=6", "objectives.itm.hardness=2.0",
    "objectives.mlm.share=0.3", "objectives.mlm.rarity=1.0", "objectives.mlm.distillation=0.4", "momentum=0.9",
    "tasks.retrieval.rerank=4", "tasks.retrieval.mix=[0.0,1.0,10.0]", "schedule.minimum=0.1", "callbacks=[checkpoint,progress]",
    "trainer.max_epochs=2",
)  # fmt: skip
SWEEP = (
    "name=sweep", *COMMON, "model=clip_tiny", "model.vision.image_size=32", "model.vision.channels=2",
    "callbacks=[checkpoint,progress]", "trainer.max_epochs=1", "-m", "seed=3,4",
)  # fmt: skip
TEXTS = ("a red circle", "two blue squares above a small green triangle", "Das Bild zeigt 12 Kreise!")
PROCESS_FILES = (
    ".lock",
    ".sweep.lock",
    ".running",
    "process.json",
    "output.log",
    "struck",
    "previous.ckpt",
    "previous.ckpt.json",
)


def example_images() -> list[PIL.Image.Image]:
    grey = PIL.Image.linear_gradient("L").resize((32, 32))
    return [
        PIL.Image.new("RGB", (32, 32), (200, 30, 60)),
        grey.convert("RGB"),
        PIL.Image.merge("RGB", [grey, grey.rotate(90), grey]),
    ]


def train(folder: Path, *overrides: str, fault: str = "", code: int = 0) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "VLP_FAULTS": fault}
    command = [sys.executable, str(ROOT / "train.py"), "--config-dir", str(CONF), *overrides]
    done = subprocess.run(command, cwd=folder, env=environment, check=False)
    assert done.returncode == code, done.returncode


def final_figures(folder: Path) -> dict[str, Any]:
    """The figures of results.json that depend neither on the clock nor on versions."""
    results = json.loads((folder / "results.json").read_text())
    counts = {key: results[key] for key in ("steps", "samples_seen") if key in results}
    return counts | {key: value for key, value in results.items() if key.count("/") == 3 and "second" not in key}


def logged_losses(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without figures that depend on the clock, and without those that earlier versions did not log."""
    return [
        {key: value for key, value in line.items() if "second" not in key and not key.startswith("lr/")}
        for line in logged_lines(folder)
    ]


def model_outputs(checkpoint: Path) -> dict[str, Any]:
    """Embeddings, match probabilities and token ids of a checkpoint for example images and texts."""
    predictor = vlp.load(checkpoint)
    outputs: dict[str, Any] = {
        "images": predictor.embed_images(example_images()).tolist(),
        "texts": predictor.embed_texts(list(TEXTS)).tolist(),
    }
    if "itm" in predictor.objectives:
        outputs["match"] = predictor.match(example_images(), list(TEXTS)).tolist()
    return outputs | {"ids": predictor.require_tokenizer().encode(list(TEXTS))}


def remove_machine_data(folder: Path) -> None:
    """Deletes files about processes and makes paths relative to the folder."""
    here = str(folder.resolve())
    for file in (file for file in folder.rglob("*") if file.is_file()):
        if file.name in PROCESS_FILES:
            file.unlink()
        elif file.suffix in (".yaml", ".json"):
            file.write_text(file.read_text().replace(here, "."))
    named = [str(file) for file in folder.rglob("*") if file.is_file() and here.encode() in file.read_bytes()]
    assert not named, named


def run_interrupted(folder: Path) -> None:
    train(folder, *DUAL, fault="site=validation,kind=sigkill,count=5", code=-9)
    train(folder, *ALBEF, "seed=1")
    train(folder, *ALBEF, "seed=2", fault="site=step,kind=sigkill,step=6", code=-9)
    train(folder, *SWEEP, fault=f"site=step,kind=sigkill,step=3,once={folder.resolve() / 'struck'}", code=1)


def run_uninterrupted(folder: Path) -> None:
    train(folder, *DUAL)
    train(folder, *ALBEF, "seed=2")
    train(folder, *SWEEP)


def store_run_folders(folder: Path, kept: Path) -> None:
    """Copies the run folders with compressed checkpoints; without checkpoints of finished runs that no test reads, and without
    best.ckpt of the killed ALBEF run, whose last epoch will be the best."""
    shutil.copytree(folder / "runs", kept / "run_folders")
    for results in kept.rglob("results.json"):
        if results.parents[1].name == "albef":
            (results.parent / "checkpoints" / "last.ckpt").unlink()
            (results.parent / "checkpoints" / "last.ckpt.json").unlink()
        else:
            shutil.rmtree(results.parent / "checkpoints")
    for best in kept.glob("run_folders/albef/*/checkpoints/best.ckpt*"):
        if not (best.parents[1] / "results.json").exists():
            best.unlink()
    for file in kept.rglob("*.ckpt"):
        file.with_name(file.name + ".xz").write_bytes(lzma.compress(file.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
        file.unlink()


def main(folder: Path, kept: Path) -> None:
    for name, runs in (("interrupted", run_interrupted), ("uninterrupted", run_uninterrupted)):
        (folder / name).mkdir(parents=True)
        runs(folder / name)
        remove_machine_data(folder / name)
    store_run_folders(folder / "interrupted", kept)
    expected: dict[str, Any] = {}
    for name, pattern in (
        ("dual", "dual/*"),
        ("albef", "albef/*"),
        ("sweep_0", "sweep/*/0_*"),
        ("sweep_1", "sweep/*/1_*"),
    ):
        (run,) = (folder / "uninterrupted" / "runs").glob(pattern)
        expected[name] = {"losses": logged_losses(run), "figures": final_figures(run)}
    (finished_run,) = (file.parent for file in folder.glob("interrupted/runs/albef/*/results.json"))
    (dual,) = folder.glob("interrupted/runs/dual/*")
    expected["numbers"] = {"albef": model_outputs(finished_run), "dual": model_outputs(dual)}
    (kept / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    tokenizer = vlp.load(finished_run).require_tokenizer()
    (kept / "tokenizer.json").write_text(tokenizer.to_json())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
