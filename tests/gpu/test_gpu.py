"""What only a GPU can show: equality with the CPU, bfloat16, compiled towers, NCCL, peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.models.text.clip_text import ClipText
from vlp.models.vision.clip_vit import ClipVit
from vlp.objectives.itc import ITC
from vlp.structures import Image, Text

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]
FIELDS = ("image_embed", "text_embed")


def vision() -> ClipVit:
    torch.manual_seed(0)
    return ClipVit(image_size=64, patch_size=8, width=128, layers=4, heads=4).eval()


def images(count: int) -> Image:
    generator = torch.Generator().manual_seed(1)
    return Image(pixels=torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator))


def loss_and_gradients(device: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model = toy_model().double().to(device)
    batch = toy_batch().to(device)
    loss = ITC()(model, batch, compute_features(model, batch, FIELDS)).value
    loss.backward()
    return loss.detach().cpu(), [p.grad.cpu() for p in model.parameters() if p.grad is not None]


def test_losses_and_gradients_equal_those_of_the_cpu() -> None:
    (here, own), (there, others) = loss_and_gradients("cpu"), loss_and_gradients("cuda")
    torch.testing.assert_close(there, here, rtol=1e-12, atol=1e-12)
    assert len(own) == len(others) > 0
    for one, other in zip(own, others, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)


def test_a_tower_in_float32_equals_the_cpu() -> None:
    tower, batch = vision(), images(8)
    with torch.no_grad():
        expected = tower(batch).pooled
        found = tower.cuda()(batch.to("cuda")).pooled.cpu()
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)  # TF32 may be on


def test_bfloat16_is_near_float32() -> None:
    tower, batch = vision().cuda(), images(8).to("cuda")
    with torch.no_grad():
        full = tower(batch).pooled
        with torch.autocast("cuda", torch.bfloat16):
            half = tower(batch).pooled.float()
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.999


@pytest.mark.parametrize("kind", ["vision", "text"])
def test_towers_compile_without_graph_breaks(kind: str) -> None:
    if kind == "vision":
        tower, inputs = vision().cuda(), images(4).to("cuda")
        (values,) = (inputs.pixels,)

        def run(pixels: torch.Tensor) -> torch.Tensor:
            return tower(Image(pixels=pixels)).pooled
    else:
        torch.manual_seed(0)
        words = ClipText(vocabulary_size=100, context_length=16, width=64, layers=2, heads=2).eval().cuda()
        values = torch.randint(1, 100, (4, 12), device="cuda")

        def run(ids: torch.Tensor) -> torch.Tensor:
            return words(Text(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))).pooled

    explained = torch._dynamo.explain(run)(values)
    assert explained.graph_break_count == 0, explained.break_reasons


def test_nccl_with_one_rank(tmp_path: Path) -> None:
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        value = torch.arange(3.0, device="cuda")
        dist.all_reduce(value)
        assert value.tolist() == [0, 1, 2]
        assert loss_and_gradients("cuda")[0].isfinite()
    finally:
        dist.destroy_process_group()


def train(folder: Path, *overrides: str) -> dict[str, float]:
    command = [
        sys.executable, str(ROOT / "train.py"), "name=gpu", f"runs={folder / 'runs'}", f"data.root={folder / 'scenes'}",
        "data.images.train=64", "data.images.val=8", "data.images.test=8", "data.batch_size=16", "data.num_workers=0",
        "logger=none", "callbacks=[checkpoint]", "trainer.max_epochs=1", *overrides,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = (folder / "runs" / "gpu").glob("*/results.json")
    return json.loads(results.read_text())


@pytest.mark.parametrize("trainer", ["trainer=gpu", "trainer=ddp"])
def test_a_run_in_bfloat16(trainer: str, tmp_path: Path) -> None:
    results = train(tmp_path, trainer)
    assert results["steps"] == 4
    assert "CPU" not in str(results["processor"])


def test_the_same_command_gives_the_same_bits_when_asked_to(tmp_path: Path) -> None:
    checkpoints = []
    for name in ("one", "other"):
        train(tmp_path / name, "trainer=gpu", "trainer.deterministic=true")
        (file,) = (tmp_path / name).rglob("last.ckpt")
        checkpoints.append(torch.load(file, weights_only=True)["state_dict"])
    assert all(torch.equal(checkpoints[0][key], checkpoints[1][key]) for key in checkpoints[0])


def test_the_gradient_cache_takes_less_memory() -> None:
    def peak(chunk: int | None) -> int:
        tower = vision().cuda().train()
        model = toy_model().cuda()
        model.vision, model.projection.image = tower, torch.nn.Linear(128, 5).cuda()
        batch = toy_batch(size=512, same_image=False)
        batch = type(batch)(**{**vars(batch), "image": images(512)}).to("cuda")
        batch = batch.map(lambda x: x.float() if x.dtype == torch.float64 else x)
        torch.cuda.reset_peak_memory_stats()
        features = compute_features(model, batch, FIELDS, chunk=chunk)
        ITC()(model, batch, features).value.backward()
        return torch.cuda.max_memory_allocated()

    assert peak(64) < 0.5 * peak(None)
