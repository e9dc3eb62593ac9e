"""Joint training on a mixture of three sources with two gloo processes and with one: equal weights, queues and momentum model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.folder import freeze

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "data=mixture", "+data@data.sources.regions=scenes_genome", "+data.sources.regions._partial_=true",
    "model=encoder_decoder_vqa_tiny", "model/vision=vit_tiny", "+model/projection=linear", "objective=[itc,itm,mlm]",
    "task=[vqa,retrieval]", "monitor=val/scenes/retrieval/rsum", "callbacks=[checkpoint]", "logger=none",
    "momentum=0.9", "objectives.itc.queue_size=13", "objectives.itc.distillation=0.4", "objectives.itm.momentum=true",
    "objectives.mlm.distillation=0.4", "objectives.mlm.distillation_warmup=2", "objectives.mlm.num_maskings=2",
    "tasks.vqa.weight=0.5", "tasks.vqa.distillation=0.4", "tokenizer.size=300", "trainer=ddp", "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=1", "trainer.max_steps=3", "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1", "trainer.log_every_n_steps=1", "data.sources.scenes.captions=2",
    "model.vision.width=24", "model.vision.layers=1", "model.text.width=16", "model.text.layers=1", "model.fusion.width=16",
    "model.fusion.layers=1", "model.decoder.width=16", "model.decoder.layers=1", "model.projection.width=8",
)  # fmt: skip
SIZES = {"scenes": 8, "scenes_vqa": 6, "regions": 4}


def run(folder: Path, processes: int) -> dict[str, Any]:
    sources = [f"data.sources.{name}.batch_size={size}" for name, size in SIZES.items()]
    for name in SIZES:
        sources += [f"data.sources.{name}.num_workers=0", f"data.sources.{name}.eval_batch_size=4"]
        if name != "scenes_vqa":  # which has those of scenes
            sources.append(f"data.sources.{name}.root={folder / 'scenes'}")
            sources += [
                f"data.sources.{name}.images.{split}={n}" for split, n in (("train", 40), ("val", 4), ("test", 4))
            ]
    overrides = [*SETTINGS, *sources, f"trainer.devices={processes}"]
    config = Composer(conf=conf_folder(), config_name="train").compose(overrides)
    own = folder / str(processes)
    own.mkdir()
    command = [sys.executable, "tests/training/double.py", str(freeze(own, resolve_config(config, own), "test"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(own / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    one, two = run(tmp_path, 1), run(tmp_path, 2)
    assert one["global_step"] == two["global_step"] == 3
    assert one["state_dict"].keys() == two["state_dict"].keys()
    kinds = {key.split(".")[0] for key in one["state_dict"]}
    assert kinds == {"model", "objectives", "momentum"}
    assert int(one["state_dict"]["objectives.itc.text_queue.count"]) == 13
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], value, rtol=0, atol=1e-10, msg=key)
