from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from vlp.models.vision.timm import TimmVision
from vlp.structures import Image

OPTIONS = {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 32}


def test_a_local_folder_brings_weights_and_normalisation(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **OPTIONS).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    pretrained = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 32, 32]}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": OPTIONS, "pretrained_cfg": pretrained}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tower = TimmVision(name=str(tmp_path), weights="pretrained").eval()
    pixels = torch.randn(2, 3, 32, 32)
    expected = model.forward_head(model.forward_features(pixels), pre_logits=True)
    assert torch.equal(tower(Image(pixels=pixels)).pooled, expected)
    assert tower.normalize.std.flatten().tolist() == pytest.approx(pretrained["std"])
    assert tower.image_size == 32


def test_weights_of_another_network_are_an_error(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="does not fit the backbone"):
        TimmVision(name="vit_tiny_patch16_224", weights=str(tmp_path / "weights.pth"), options=OPTIONS)
    with pytest.raises(FileNotFoundError, match=r"model\.vision\.weights"):
        TimmVision(name="resnet18", weights="nowhere.pth")
    with pytest.raises(ValueError, match="resnet19"):
        TimmVision(name="resnet19")


def test_the_exact_file_of_a_folder_is_read(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **OPTIONS)
    config = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": OPTIONS,
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    zeros = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    save_file(zeros, tmp_path / "averaged.safetensors")
    torch.save(zeros, tmp_path / "last.pth")
    with pytest.raises(ValueError, match=r"several files of weights \(averaged\.safetensors, last\.pth\): choose one"):
        TimmVision(name=str(tmp_path), weights="pretrained")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"model\.safetensors is read; left alone: averaged\.safetensors, last\.pth"):
        tower = TimmVision(name=str(tmp_path), weights="pretrained")
    assert torch.equal(tower.backbone.cls_token, model.cls_token)


@pytest.mark.parametrize("kept", [30, 5000])
def test_a_file_that_was_cut_off_is_one_sentence(tmp_path: Path, kept: int) -> None:
    save_file(timm.create_model("vit_tiny_patch16_224", **OPTIONS).state_dict(), tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.vision\.weights: .*a\.safetensors is cut off"):
        TimmVision(name="vit_tiny_patch16_224", weights=str(tmp_path / "a.safetensors"), options=OPTIONS)


def test_channels_last_is_the_same_network() -> None:
    torch.manual_seed(0)
    tower = TimmVision(name="resnet10t", image_size=32).eval()
    other = TimmVision(**{**tower.architecture(), "memory_format": "channels_last"}).eval()
    other.load_state_dict(tower.state_dict())
    assert other.architecture()["memory_format"] == "channels_last"
    pixels = torch.randn(2, 3, 32, 48)
    expected, found = tower(Image(pixels=pixels)), other(Image(pixels=pixels))
    assert other.backbone.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.states, expected.states, rtol=1e-4, atol=1e-5)
    assert found.grid == expected.grid == (1, 2)
    with pytest.raises(ValueError, match="memory_format=last of a tower: choose contiguous or channels_last"):
        TimmVision(name="resnet10t", memory_format="last")
