"""FSDP2 on two gloo processes: the losses and the checkpoint of DDP, continuing after a stop, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vlp
from vlp.checkpoints import sharded
from vlp.checkpoints.convert import convert
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.folder import freeze
from vlp.system.compat.torch import scalars_to_rows
from vlp.training.strategies.sharding import block_units

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "data.images.train=40", "data.images.val=9", "data.images.test=9", "data.batch_size=8", "data.eval_batch_size=4",
    "data.num_workers=0", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true",
    "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "trainer.gradient_clip_val=0.5", "schedule=constant",
    "logger=none", "callbacks=[checkpoint]", "tokenizer.size=400",
)  # fmt: skip
CLIP = ("model=clip_tiny", "model.vision.channels=4", "model.text.width=32", "task=[retrieval,compositionality]")
ALBEF = (
    "model=albef_tiny", "objective=[itc,itm,mlm]", "task=[retrieval]", "tasks.retrieval.rerank=4",
    "model.vision.channels=4", "model.text.width=32", "model.fusion.width=32",
)  # fmt: skip
MOMENTUM = (
    *ALBEF, "momentum=0.9", "objectives.itc.queue_size=13", "objectives.itc.width=128", "objectives.itc.distillation=0.4",
    "objectives.mlm.distillation=0.4",
)  # fmt: skip


def start(folder: Path, name: str, trainer: str, *overrides: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    places = (f"trainer={trainer}", f"data.root={folder / 'scenes'}")
    config = Composer(conf=conf_folder(), config_name="train").compose([*places, *SETTINGS, *overrides])
    own = folder / name
    own.mkdir()
    command = [sys.executable, "-m", "vlp.training.run", str(freeze(own, resolve_config(config, own), "test"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return own, subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)


def run(folder: Path, name: str, trainer: str, *overrides: str) -> Path:
    own, done = start(folder, name, trainer, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    return own


def lines(own: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (own / "metrics.jsonl").read_text().splitlines()]


def losses(own: Path) -> dict[tuple[int, str], float]:
    return {(line["step"], key): value for line in lines(own) for key, value in line.items() if key.endswith("/loss")}


def figures(line: dict[str, Any], split: str) -> dict[str, float]:
    """Measured ones, but for how long it took."""
    return {k: v for k, v in line.items() if k.startswith(split) and isinstance(v, float) and "second" not in k}


def content(own: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(own / "checkpoints" / f"{name}.ckpt", map_location="cpu", weights_only=True)


def assert_equal_runs(ddp: Path, fsdp: Path) -> None:
    wanted, got = losses(ddp), losses(fsdp)
    assert len({step for step, _ in wanted}) == 10
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        assert got[key] == pytest.approx(value, abs=1e-6), key
    measured = [[figures(line, "val/") for line in lines(own)] for own in (ddp, fsdp)]
    assert any(measured[0])
    assert measured[1] == [pytest.approx(line, abs=1e-3) for line in measured[0]]
    assert_equal_checkpoints(content(fsdp), content(ddp))
    results = [json.loads((own / "results.json").read_text()) for own in (ddp, fsdp)]
    assert figures(results[0], "test/")
    assert figures(results[1], "test/") == pytest.approx(figures(results[0], "test/"), abs=1e-3)


def assert_equal_checkpoints(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert got.keys() == wanted.keys()
    assert list(got["state_dict"]) == list(wanted["state_dict"])
    for key, value in wanted["state_dict"].items():
        # a twentieth of one step of AdamW's (lr 0.002), which divides small gradients, sums in another order, by their size
        torch.testing.assert_close(got["state_dict"][key], value, rtol=1e-5, atol=1e-4, msg=key)
    ((mine,), (theirs,)) = got["optimizer_states"], wanted["optimizer_states"]
    assert mine["param_groups"] == theirs["param_groups"]
    assert mine["state"].keys() == theirs["state"].keys()
    for index, entry in theirs["state"].items():
        for key, value in entry.items():
            torch.testing.assert_close(mine["state"][index][key], value, rtol=1e-4, atol=1e-5, msg=f"{index} {key}")


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "scenes").rglob("COCO_test_*.png"))[:3]


TEXTS = ["a red circle", "two blue squares", "a green triangle"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", [CLIP, ALBEF, MOMENTUM], ids=["clip", "albef", "momentum"])
def test_losses_and_checkpoint_are_those_of_ddp(tmp_path: Path, model: Sequence[str]) -> None:
    ddp, fsdp = run(tmp_path, "ddp", "ddp", *model), run(tmp_path, "fsdp", "fsdp", *model)
    assert_equal_runs(ddp, fsdp)
    best = vlp.load(fsdp / "checkpoints" / "best.ckpt")  # on one process
    expected = vlp.load(ddp / "checkpoints" / "best.ckpt").similarity(pictures(tmp_path), TEXTS)
    assert expected.std() > 1e-4
    torch.testing.assert_close(best.similarity(pictures(tmp_path), TEXTS), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_goes_on_from_its_own_file_from_ddps_and_from_shards(tmp_path: Path) -> None:
    straight = run(tmp_path, "straight", "fsdp", *CLIP)
    sharded = "trainer.strategy.save_distributed_checkpoint=true"
    half = run(tmp_path, "half", "fsdp", *CLIP, "trainer.max_epochs=1")
    half_ddp = run(tmp_path, "half_ddp", "ddp", *CLIP, "trainer.max_epochs=1")
    parts = run(tmp_path, "parts", "fsdp", *CLIP, "trainer.max_epochs=1", sharded)
    folder = parts / "checkpoints" / "last.ckpt"
    assert sorted(file.name for file in folder.iterdir()) == ["shard_0_of_2.pt", "shard_1_of_2.pt"]
    assert {path.name for path in folder.parent.iterdir()} == {"last.ckpt", "previous.ckpt", "best.ckpt"}
    whole = (half / "checkpoints" / "last.ckpt").stat().st_size
    assert all(file.stat().st_size < 0.7 * whole for file in folder.iterdir())  # each process held its share
    convert(folder, tmp_path / "one.ckpt", "vlp")
    one = torch.load(tmp_path / "one.ckpt", map_location="cpu", weights_only=True)
    assert_equal_checkpoints(one, content(half))
    similarity = vlp.load(half).similarity(pictures(tmp_path), TEXTS)
    torch.testing.assert_close(vlp.load(parts).similarity(pictures(tmp_path), TEXTS), similarity)
    for name, trainer, first in (
        ("again", "fsdp", half / "checkpoints" / "last.ckpt"),
        ("from_ddp", "fsdp", half_ddp / "checkpoints" / "last.ckpt"),
        ("from_parts", "fsdp", folder),
        ("to_ddp", "ddp", tmp_path / "one.ckpt"),
    ):
        again = run(tmp_path, name, trainer, *CLIP, f"resume={first}", "force=true")  # for an epoch more
        wanted = {key: value for key, value in losses(straight).items() if key[0] >= 5}
        assert losses(again) == pytest.approx(wanted, abs=1e-6), name
        assert_equal_checkpoints({**content(again), "callbacks": 0}, {**content(straight), "callbacks": 0})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bfloat16_and_gradient_cache(tmp_path: Path) -> None:
    settings = (*CLIP, "trainer.precision=bf16-mixed", "gradient_cache=2")
    ddp, fsdp = run(tmp_path, "ddp", "ddp", *settings), run(tmp_path, "fsdp", "fsdp", *settings)
    assert len(losses(ddp)) == 10
    assert losses(fsdp) == pytest.approx(losses(ddp), abs=5e-3)
    blocks = run(tmp_path, "blocks", "fsdp", *settings, "trainer.strategy.bfloat16_blocks=true")
    assert losses(blocks) == pytest.approx(losses(ddp), abs=0.1)
    assert losses(blocks) != losses(ddp)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("callbacks=[checkpoint,ema]", "leave ema out of callbacks"),
        ("compile=true", "set compile=false"),
        ("objectives.itc.weight=[[0,0],[0.5,1]]", "objectives.itc.weight is 0 at times"),
        ("optimizer=muon", "choose optimizer=adamw"),
    ],
)
def test_what_it_cannot_do_is_said_before_the_first_step(tmp_path: Path, override: str, sentence: str) -> None:
    own, done = start(tmp_path, "run", "fsdp", *CLIP, "trainer.devices=1", override)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "trainer=fsdp" in done.stderr
    assert sentence in done.stderr
    assert not (own / "metrics.jsonl").exists()


class Asked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(2, 2)

    def project_memory(self) -> None: ...


class Crossed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.cross, self.norm = nn.Sequential(nn.Linear(2, 2)), Asked(), nn.LayerNorm(2)


def test_units_are_blocks_that_nobody_else_reads() -> None:
    plain = nn.ModuleList(nn.TransformerEncoderLayer(4, 1, 4) for _ in range(3))
    nested = nn.Sequential(nn.Sequential(plain[0], plain[1]), nn.Sequential(plain[2]))
    tied = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))])
    tied[1][0].weight = tied[0][0].weight
    crossed = nn.ModuleList([Crossed()])
    module = nn.ModuleDict(
        {"nested": nested, "tied": tied, "crossed": crossed, "leaves": nn.Sequential(nn.Linear(2, 2), nn.GELU())}
    )
    assert block_units(module) == [*plain, crossed[0].attention]


def test_scalars_are_stored_as_rows_and_read_as_numbers() -> None:
    first, second = nn.Module(), nn.Module()
    first.scale = second.scale = nn.Parameter(torch.tensor(3.0))
    module = nn.ModuleDict({"first": first, "second": second})
    assert scalars_to_rows(module) == {"first.scale", "second.scale"}
    assert {name: p.shape for name, p in module.named_parameters()} == {"first.scale": (1,)}
    assert first.scale.shape == ()
    (2 * first.scale + second.scale).backward()
    assert module.first._parameters["scale"].grad.tolist() == [3.0]
    with torch.no_grad():
        first.scale.clamp_(max=1.0)
    assert float(second.scale) == 1.0


def test_shards_join_to_the_whole_and_a_missing_one_is_named(tmp_path: Path) -> None:
    whole = torch.arange(10.0).reshape(5, 2)
    for rank, part in enumerate(whole.split(3)):
        state = {
            "weight": sharded.row_slice(part, (5, 2)),
            "scale": sharded.row_slice(torch.ones(1 - rank), ()),
            "count": torch.tensor(7),
        }
        sharded.write(tmp_path, {"state_dict": state} | ({"epoch": 3} if rank == 0 else {}), rank=rank, processes=2)
    joined = sharded.read(tmp_path)
    assert torch.equal(joined["state_dict"]["weight"], whole)
    assert joined["state_dict"]["scale"].shape == ()
    assert (joined["epoch"], int(joined["state_dict"]["count"])) == (3, 7)
    (tmp_path / "shard_1_of_2.pt").unlink()
    with pytest.raises(ValueError, match=r"shard_1_of_2.pt is missing"):
        sharded.read(tmp_path)
