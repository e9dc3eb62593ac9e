"""Weights that fit in part: strict by default, and with strict=False what is taken, left and new is listed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.checkpoints.clip_files import CLIP, clip_state
from vlp.build import build
from vlp.checkpoints import load
from vlp.checkpoints.partial import collapse_numbers
from vlp.system.errors import UserError

ALBEF = CLIP | {
    "vision": CLIP["vision"] | {"layers": 3, "image_size": 32, "pre_norm": False, "patch_bias": True, "norm_states": True},
    "text": {"_target_": "vlp.models.text.bert.BertText", "vocabulary_size": 30, "context_length": 9, "width": 64,
             "layers": 2, "heads": 1},
}  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    load.save(load.Checkpoint(config=_config(), state=_state()), tmp_path / "clip.ckpt")
    return tmp_path / "clip.ckpt"


def _config() -> dict[str, object]:
    return {"model": CLIP | {name: CLIP[name] | {"layers": 2} for name in ("vision", "text")}}


def _state() -> dict[str, torch.Tensor]:
    return load.clip.to_ours(clip_state(), load.clip.key_table({}))


def test_towers_of_clip_in_albef(weights: Path) -> None:
    model = build(ALBEF)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"or take what fits with checkpoint_strict=false"):
        load.load_weights(weights, model, {})
    notes = "\n".join(load.load_weights(weights, model, {}, strict=False))
    after, clip = model.state_dict(), _state()
    taken = {key for key in after if not torch.equal(after[key], before[key])}
    assert "vision.blocks.1.mlp.fc1.weight" in taken
    assert torch.equal(after["vision.blocks.1.mlp.fc1.weight"], clip["vision.blocks.1.mlp.fc1.weight"])
    assert len(after["vision.positions"]) == 17  # resized from 5
    assert not any(
        key.startswith(("text.", "vision.blocks.2.")) for key in taken
    )  # BERT's blocks have CLIP's names and shapes
    assert "took 32 of the model's" in notes
    assert "vision.blocks.{0,1}.attention.qkv.weight" in notes
    assert "left its text (28 tensors): it is a ClipText, the model's is a BertText" in notes
    assert "left 2 tensors that the model has no equal of: vision.norm_pre.weight, vision.norm_pre.bias" in notes
    assert "which start from scratch: vision.patches.bias, vision.blocks.2.norm1.weight" in notes


def test_tensors_of_another_shape_are_left_with_both_shapes(weights: Path) -> None:
    model = build(CLIP | {"text": CLIP["text"] | {"layers": 2, "vocabulary_size": 50}})
    notes = "\n".join(load.load_weights(weights, model, {}, strict=False))
    assert "text.embedding.weight (20, 64) (the model: (50, 64))" in notes
    assert "vision.blocks.1.norm1.weight" in notes  # a layer that the model does not have
    assert torch.equal(model.text.positions, _state()["text.positions"])


def test_weights_of_which_nothing_fits_start_no_run(weights: Path) -> None:
    model = build(ALBEF | {"vision": ALBEF["vision"] | {"width": 128}, "projection": None})
    with pytest.raises(UserError, match="nothing in it has the name and shape of a tensor of the model"):
        load.load_weights(weights, model, {}, strict=False)


def test_all_that_fits_leaves_nothing(weights: Path) -> None:
    model = build(_config()["model"])
    (note,) = load.load_weights(weights, model, {}, strict=False)
    assert "took 62 of the model's 62 tensors" in note


def test_the_bias_of_siglip_starts_at_its_default(weights: Path) -> None:
    projection = CLIP["projection"] | {"logit_bias": -10.0, "text_bias": True}
    model = build(_config()["model"] | {"projection": projection})
    notes = load.load_weights(weights, model, {})
    assert [note.removeprefix(f"checkpoint={weights} ") for note in notes] == [
        "has no projection.logit_bias, which starts at -10",
        "has no projection.text.bias, which starts at 0",
    ]
    assert model.projection.logit_bias.item() == -10
    assert torch.equal(model.projection.text.weight, _state()["projection.text.weight"])


def test_a_bias_that_only_the_file_has_is_not_dropped(weights: Path, tmp_path: Path) -> None:
    model = build(_config()["model"])
    state = _state() | {"projection.logit_bias": torch.tensor(-9.0)}
    config = {"model": _config()["model"] | {"projection": CLIP["projection"] | {"logit_bias": -10.0}}}
    load.save(load.Checkpoint(config=config, state=state), tmp_path / "siglip.ckpt")
    with pytest.raises(UserError, match=r"no place for 1 key \(projection\.logit_bias\)"):
        load.load_weights(tmp_path / "siglip.ckpt", model, {})
    assert "left 1 tensors" in "\n".join(load.load_weights(tmp_path / "siglip.ckpt", model, {}, strict=False))


def test_names_that_differ_in_numbers_are_listed_once() -> None:
    keys = [f"vision.blocks.{index}.norm{k}.bias" for index in (0, 1, 2, 3, 5) for k in (1, 2)]
    assert collapse_numbers([*keys[:8], "text.positions"]) == (
        "vision.blocks.{0-3}.norm1.bias, vision.blocks.{0-3}.norm2.bias, text.positions"
    )
    assert collapse_numbers(keys[8:]) == "vision.blocks.5.norm1.bias, vision.blocks.5.norm2.bias"
    assert collapse_numbers(keys) == "vision.blocks.{0,1,2,3,5}.norm1.bias, vision.blocks.{0,1,2,3,5}.norm2.bias"


@pytest.mark.parametrize("damaged", [torch.int8, None])
def test_quantised_weights_and_nan_do_not_fit_in_part(tmp_path: Path, damaged: torch.dtype | None) -> None:
    state, key = _state(), "vision.blocks.1.mlp.fc1.weight"
    state[key] = state[key].to(damaged) if damaged else state[key] * float("nan")
    load.save(load.Checkpoint(config=_config(), state=state), tmp_path / "clip.ckpt")
    with pytest.raises(UserError, match=r"cannot be used: it has .*vision\.blocks\.1\.mlp\.fc1\.weight"):
        load.load_weights(tmp_path / "clip.ckpt", build(ALBEF), {}, strict=False)
