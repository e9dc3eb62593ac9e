"""What is recognised, and what is refused with which words."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from tests.checkpoints.fixtures import opened
from vlp.build import build
from vlp.checkpoints import load
from vlp.checkpoints.load import Checkpoint

MODEL = {
    "_target_": "vlp.models.vlm.VisionLanguageModel",
    "vision": {"_target_": "vlp.models.vision.clip_vit.ClipVit", "image_size": 16, "patch_size": 8, "width": 64,
               "layers": 1},
    "text": {"_target_": "vlp.models.text.clip_text.ClipText", "vocabulary_size": 20, "context_length": 9, "width": 64,
             "layers": 1},
    "projection": {"_target_": "vlp.models.projection.linear.LinearProjection", "_partial_": True, "width": 32},
}  # fmt: skip


def checkpoint(model: dict = MODEL) -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(config={"model": model}, state=dict(build(model).state_dict()), heads={})


def test_a_file_and_a_run_folder_of_ours(tmp_path: Path) -> None:
    ours = checkpoint()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    load.save(ours, tmp_path / "run" / "checkpoints" / "last.ckpt")
    state = opened(tmp_path / "run").state_dict()
    assert all(torch.equal(state[key], value) for key, value in ours.state.items())
    other = Checkpoint(config=ours.config, state={k: v + 1 for k, v in ours.state.items()}, heads={})
    load.save(other, tmp_path / "run" / "checkpoints" / "best.ckpt")
    state = opened(tmp_path / "run").state_dict()
    assert all(torch.equal(state[key], value) for key, value in other.state.items())


def test_lightnings_further_entries_do_not_disturb(tmp_path: Path) -> None:
    ours = checkpoint()
    state = {f"model.{key}": value for key, value in ours.state.items()} | {"tasks.zero_shot.x": torch.zeros(1)}
    content = {"config": ours.config | {"optimizer": {"lr": 1}}, "state_dict": state, "tokenizer_json": None}
    torch.save(content | {"epoch": 3}, tmp_path / "a.ckpt")
    assert opened(tmp_path / "a.ckpt").text.context_length == 9


def test_missing_unexpected_and_misshaped_keys_are_grouped(tmp_path: Path) -> None:
    ours = checkpoint()
    del ours.state["vision.class_token"]
    ours.state["vision.register"] = torch.zeros(1)
    ours.state["text.positions"] = torch.zeros(10, 64)
    load.save(ours, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"lacks 1 key \(vision\.class_token\)") as error:
        opened(tmp_path / "a.ckpt")
    assert "no place for 1 key (vision.register)" in str(error.value)
    assert "another shape for 1 key (text.positions (10, 64) (the model: (9, 64)))" in str(error.value)


def test_the_image_size_changes_only_when_asked(tmp_path: Path) -> None:
    load.save(checkpoint(), tmp_path / "a.ckpt")
    assert opened(tmp_path / "a.ckpt").vision.image_size == 16
    larger = opened(tmp_path / "a.ckpt", image_size=32)
    assert larger.vision.image_size == 32
    assert len(larger.vision.positions) == 17


def test_a_run_starts_from_weights_of_another_image_size(tmp_path: Path) -> None:
    ours = checkpoint()
    load.save(ours, tmp_path / "a.ckpt")
    larger = opened(tmp_path / "a.ckpt", image_size=32).state_dict()
    model = build(MODEL | {"vision": MODEL["vision"] | {"image_size": 32}})
    assert load.load_weights(tmp_path / "a.ckpt", model, {}) == []
    assert all(torch.equal(value, larger[key]) for key, value in model.state_dict().items())


def test_parts_and_heads_that_only_one_side_has_are_named(tmp_path: Path) -> None:
    ours = checkpoint()
    ours.heads = {"itc.weight": torch.ones(2, 3), "itc.image_queue.id": torch.arange(4), "mlm.bias": torch.ones(1)}
    load.save(ours, tmp_path / "a.ckpt")
    model = build({**MODEL, "projection": None})
    itc, itm = torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(3, 2)
    itc.image_queue = torch.nn.Module()
    itc.image_queue.register_buffer("id", torch.zeros(4, dtype=torch.int64))
    notes = load.load_weights(tmp_path / "a.ckpt", model, {"itc": itc, "itm": itm})
    assert [note.removeprefix(f"checkpoint={tmp_path / 'a.ckpt'} ") for note in notes] == [
        "has a projection that is not used by this run",
        "has no head for itm, which is initialised from scratch",
        "has heads that are not used by this run: mlm",
    ]
    assert itc.weight.eq(1).all()
    assert itc.image_queue.id.eq(-1).all()  # ids of another run's data


def test_weights_of_another_architecture_start_no_run(tmp_path: Path) -> None:
    load.save(checkpoint(), tmp_path / "a.ckpt")
    model = build(MODEL | {"text": MODEL["text"] | {"layers": 2}})
    with pytest.raises(ValueError, match=r"is of another architecture than model=…: .*lacks 12 keys"):
        load.load_weights(tmp_path / "a.ckpt", model, {})


@pytest.mark.parametrize(
    "target",
    ["os.system", "torch.load", "builtins.open", "torch.hub.load", "vlp.models.vlm.nn.Module", "vlp.models.vlm.nn",
     "vlp.models.vision.timm.timm.create_model", "vlp.models.layers.build_pre_norm_blocks", "vlp.models.text.transformers.Text",
     "vlp.predictor.load", "vlp.models.nothing.Nothing"],
)  # fmt: skip
def test_a_stranger_config_builds_nothing_but_our_own_parts(tmp_path: Path, target: str) -> None:
    model = MODEL | {"vision": {"_target_": target, "command": "touch marker"}}
    load.save(Checkpoint(config={"model": model}, state={}, heads={}), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="are built from files") as error:
        opened(tmp_path / "a.ckpt")
    assert target in str(error.value)


def test_a_stranger_config_does_not_fetch_weights(tmp_path: Path) -> None:
    for tower in ({"weights": "pretrained"}, {"name": "someone/bert", "config": None, "weights": False}):
        model = MODEL | {"text": {"_target_": "vlp.models.text.transformers.TransformersText", **tower}}
        load.save(Checkpoint(config={"model": model}, state={}, heads={}), tmp_path / "a.ckpt")
        with pytest.raises(ValueError, match="names other weights"):
            opened(tmp_path / "a.ckpt")


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch marker",)


def test_a_pickle_with_a_payload_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Payload()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ValueError, match="which could run code"):
            opened(tmp_path / name)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b"some text\n", "is no checkpoint")])
def test_files_of_other_kinds_are_told(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load.read(tmp_path / "a.ckpt", {})


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        opened(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="neither"):
        opened(tmp_path)
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"no format that vlp reads; its keys are layer\.weight"):
        opened(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="load takes no heads"):
        opened(tmp_path / "a.pt", heads=3)
