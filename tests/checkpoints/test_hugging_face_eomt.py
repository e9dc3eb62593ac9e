"""EoMT folders: the originals' numbers, also at other sizes, written back bit-equal, and trainable by the task panoptic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from safetensors.torch import load_file

import vlp
from tests.checkpoints.fixtures import arrays
from vlp.checkpoints import load
from vlp.checkpoints.convert import convert
from vlp.structures import Image
from vlp.system.errors import UserError

OTHERS: dict[str, dict[str, Any]] = {
    "registers": {"num_register_tokens": 3, "num_blocks": 1, "num_upscale_blocks": 1, "patch_size": 8},
    "swiglu": {"use_swiglu_ffn": True, "num_register_tokens": 1, "image_size": 64, "num_labels": 9},
    "larger": {"hidden_size": 96, "num_attention_heads": 6, "num_hidden_layers": 5, "num_blocks": 5, "num_queries": 3},
}


def check(folder: Path, pixels: torch.Tensor, masks: torch.Tensor, classes: torch.Tensor) -> None:
    model = load.build_model(load.read(folder, {}))
    with torch.no_grad():
        found = model.vision.query(Image(pixels=pixels))[-1]
    torch.testing.assert_close(found.masks, masks, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.classes, classes, rtol=1e-5, atol=1e-5)


def check_round_trip(folder: Path, destination: Path) -> None:
    convert(folder, destination, "hugging_face")
    before, after = (load_file(path / "model.safetensors") for path in (folder, destination))
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    configs = [transformers.AutoConfig.from_pretrained(path).to_dict() for path in (folder, destination)]
    ignored = {"_name_or_path", "transformers_version", "label2id", "intermediate_size"}
    assert [key for key in configs[0] if key not in ignored and configs[0][key] != configs[1].get(key)] == []


def test_the_originals_numbers(shared: Path, tmp_path: Path) -> None:
    folder = shared / "reference/eomt"
    outputs = arrays(folder / "outputs.npz")
    check(folder, arrays(folder / "inputs.npz")["pixels"], outputs["masks"], outputs["classes"])
    check_round_trip(folder, tmp_path / "written")


@pytest.mark.parametrize("name", list(OTHERS))
@pytest.mark.parametrize("masked", [True, False])
def test_other_sizes(tmp_path: Path, name: str, masked: bool) -> None:
    torch.manual_seed(0)
    options = {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3, "num_blocks": 2, "num_queries": 5}
    config = transformers.EomtConfig(
        **{**options, "image_size": 32, "num_labels": 4, "num_register_tokens": 0, **OTHERS[name]}
    )
    original = transformers.EomtForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        original.attn_mask_probs.fill_(float(masked))
    original.save_pretrained(tmp_path / "original")
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    with torch.no_grad():
        expected = original(pixels)
    check(tmp_path / "original", pixels, expected.masks_queries_logits, expected.class_queries_logits)
    check_round_trip(tmp_path / "original", tmp_path / "written")


def test_a_folder_on_another_tower_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "eomt_dinov3"}')
    with pytest.raises(UserError, match="eomt_dinov3"):
        load.read(tmp_path, {})


def test_the_predictor_segments_photos_by_such_a_folder(shared: Path) -> None:
    with pytest.warns(UserWarning, match="preprocessor_config"):  # which the folder lacks
        predictor = vlp.load(shared / "reference/eomt")
    predictor.objectives["panoptic"].threshold = 0.1
    (found,) = predictor.segment([PIL.Image.new("RGB", (50, 30), (200, 10, 30))])
    assert found["classes"].shape == (30, 50)
    assert found["names"] == ("0", "1", "2", "3", "4")
    assert {entry["id"] for entry in found["segments"]} == set(np.unique(found["ids"]).tolist()) - {0}
