from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torchvision

from vlp.models.vision.torchvision import TorchvisionVision
from vlp.structures import Image


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "efficientnet_b0", "mobilenet_v3_small", "swin_t"])
@torch.no_grad()
def test_pooled_is_the_input_of_the_last_linear_layer(name: str, tmp_path: Path) -> None:
    model = torchvision.models.get_model(name).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    tower = TorchvisionVision(name=name, weights=str(tmp_path / "weights.pth")).eval()
    pixels = torch.randn(1, 3, 64, 64)
    tokens = tower(Image(pixels=pixels))
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    torch.testing.assert_close(last(tokens.pooled), model(pixels), atol=1e-5, rtol=1e-4)
    assert tokens.grid == (2, 2)


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ValueError, match="no classification model 'resnet51'"):
        TorchvisionVision(name="resnet51")
    with pytest.raises(FileNotFoundError, match="IMAGENET1K_V1"):
        TorchvisionVision(name="resnet18", weights="imagenet")


def test_a_file_in_place_of_weights_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 9\n")
    with pytest.raises(ValueError, match=r"model\.vision\.weights: .*weights\.pth is a Git LFS pointer"):
        TorchvisionVision(name="resnet18", weights=str(tmp_path / "weights.pth"))
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(
        ValueError, match=r"R-18\.pkl is no state dict of torch; give a file of Detectron2 as checkpoint=.*R-18"
    ):
        TorchvisionVision(name="resnet18", weights=str(tmp_path / "R-18.pkl"))
