"""Settings that a file does not contain are assumed with one warning; those that differ from the run's are reported."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import vlp
from tests.checkpoints.clip_files import CLIP, clip_state
from vlp.build import build
from vlp.checkpoints import load
from vlp.checkpoints.agreement import check_function
from vlp.checkpoints.convert import convert
from vlp.checkpoints.settings import assume_heads
from vlp.cli import main
from vlp.system.errors import UserError


def assumptions(path: Path, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True, action="always") as record:
        vlp.load(path, **options)
    return [str(warning.message) for warning in record]


def test_the_activation_of_clip_weights_is_assumed_with_one_warning(tmp_path: Path) -> None:
    """It is guessed from the wrapping: OpenAI's plain files have QuickGELU, open_clip's training files GELU."""
    wrapped = {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in clip_state().items()}}
    for content, name in ((wrapped, "gelu"), (clip_state(), "quick_gelu")):
        torch.save(content, tmp_path / "a.pt")
        (message,) = assumptions(tmp_path / "a.pt")
        assert f"assumed: activation={name} " in message
        assert "vlp.load(…, activation=…)" in message
        assert "evaluate.py architecture.activation=…" in message
        assert "pooled at their highest token id" in message
        assert "mean and standard deviation" in message


@pytest.mark.parametrize("name", ["gelu", "quick_gelu"])
def test_no_warning_where_the_activation_is_given(tmp_path: Path, name: str) -> None:
    torch.save({"state_dict": clip_state()}, tmp_path / "a.pt")
    assert assumptions(tmp_path / "a.pt", activation=name) == []


def test_no_warning_where_the_file_or_one_beside_it_says(tmp_path: Path) -> None:
    state = clip_state() | {
        "input_resolution": torch.tensor(16),
        "context_length": torch.tensor(9),
        "vocab_size": torch.tensor(20),
    }
    torch.save(state, tmp_path / "archive.pt")  # entries that only OpenAI's archives have
    torch.save(clip_state(), tmp_path / "a.pt")
    (tmp_path / "a.json").write_text('{"vision_heads": 1, "transformer_heads": 1}')
    assert assumptions(tmp_path / "archive.pt") == assumptions(tmp_path / "a.pt") == []
    config = {"embed_dim": 32, "vision_cfg": {"width": 64, "image_size": 16}, "text_cfg": {"heads": 1}}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.save(clip_state(), tmp_path / "folder" / "open_clip_pytorch_model.bin")
    assert assumptions(tmp_path / "folder") == []


def test_heads_of_widths_whose_heads_are_not_64_wide_are_named(tmp_path: Path) -> None:
    model = build(CLIP | {"vision": CLIP["vision"] | {"width": 1280, "heads": 16}})
    state = clip_state(1)
    theirs = load.clip.to_theirs(dict(model.state_dict()), [row for row in load.clip.key_table({}) if row.ours])
    torch.save(state | theirs, tmp_path / "a.pt")
    (message,) = assumptions(tmp_path / "a.pt", activation="gelu")
    assert "vision_heads=16" in message
    assert vlp.load(tmp_path / "a.pt", activation="gelu", vision_heads=16).model.vision.blocks[0].attention.heads == 16


@pytest.mark.parametrize(("width", "heads", "named"), [(768, None, False), (192, None, True), (192, 3, False)])
def test_heads_of_widths_that_were_not_published_are_named(width: int, heads: int | None, named: bool) -> None:
    """ALBEF, ViLT and BLIP have 64 for each head at 768 and 1024."""
    checkpoint = load.Checkpoint(config={"model": {"vision": {"width": width, "heads": heads}}}, state={})
    assume_heads(checkpoint)
    assert ("heads" in checkpoint.assumed) == named


def test_preprocessing_of_a_folder_without_its_file_is_named(shared: Path, tmp_path: Path) -> None:
    source = shared / "reference" / "hf" / "clip_quickgelu"
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    (message,) = assumptions(tmp_path)
    assert "without preprocessor_config.json" in message


def test_conversion_warns_as_loading_does(tmp_path: Path) -> None:
    torch.save({"state_dict": clip_state()}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="assumed: activation=gelu"):
        convert(tmp_path / "a.pt", tmp_path / "a.ckpt", "vlp")
    assert assumptions(tmp_path / "a.ckpt") == []  # which now contains it


def test_the_command_line_chooses_what_a_file_does_not_contain(tmp_path: Path) -> None:
    torch.save({"state_dict": clip_state()}, tmp_path / "a.pt")
    with warnings.catch_warnings(action="error"):
        assert (
            main(
                [
                    "convert",
                    str(tmp_path / "a.pt"),
                    str(tmp_path / "a.ckpt"),
                    "--to",
                    "vlp",
                    "--activation",
                    "quick_gelu",
                ]
            )
            == 0
        )
    config = load.read(tmp_path / "a.ckpt", {}).config["model"]
    assert {config[name]["activation"] for name in ("vision", "text")} == {"quick_gelu"}


def test_a_run_that_starts_from_such_a_file_says_which_settings_it_uses(tmp_path: Path) -> None:
    torch.save({"state_dict": clip_state(1)}, tmp_path / "a.pt")
    model = CLIP | {"vision": CLIP["vision"] | {"activation": "gelu"}}
    with pytest.warns(UserWarning, match="checkpoint=a.pt does not contain these settings") as record:
        assert check_function(load.read(tmp_path / "a.pt", {}), model, source="checkpoint=a.pt") == []
    (message,) = (str(warning.message) for warning in record)
    assert "model.vision.activation=gelu" in message
    assert "model.text.activation=quick_gelu" in message


def test_settings_of_a_run_that_are_not_those_of_the_weights_are_refused_or_reported(tmp_path: Path) -> None:
    torch.save(clip_state(1), tmp_path / "a.pt")
    load.save(load.read(tmp_path / "a.pt", {"activation": "gelu"}), tmp_path / "a.ckpt")
    changed = {"activation": "gelu", "norm_eps": 1e-6, "mean": [0.5] * 3}
    model = CLIP | {"vision": CLIP["vision"] | changed, "text": CLIP["text"] | {"pool": "end", "causal": False}}
    checkpoint = load.read(tmp_path / "a.ckpt", {})
    with pytest.raises(UserError, match="does not fit this run, though its tensors would") as refusal:
        check_function(checkpoint, model, source="checkpoint=a.ckpt")
    differing = [note.partition(": ")[2] for note in check_function(checkpoint, model, source="a.ckpt", strict=False)]
    assert differing == [
        "model.vision.mean=[0.5,0.5,0.5], not [0.48145466,0.4578275,0.40821073]",
        "model.vision.norm_eps=1e-06, not 1e-05",
        "model.text.activation=quick_gelu, not gelu",
        "model.text.causal=False, not True",
    ]
    assert all(text in str(refusal.value) for text in differing)


def test_settings_of_a_file_that_contains_them_cannot_be_given(tmp_path: Path) -> None:
    torch.save(clip_state(1), tmp_path / "a.pt")
    load.save(load.read(tmp_path / "a.pt", {"activation": "gelu"}), tmp_path / "a.ckpt")
    assert assumptions(tmp_path / "a.ckpt", activation=None) == []
    with pytest.raises(UserError, match="says its architecture itself; leave out activation"):
        vlp.load(tmp_path / "a.ckpt", activation="quick_gelu")
