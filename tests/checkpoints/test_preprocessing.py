"""Pictures become what transformers' own processors make of them, whatever their settings; what cannot be is no transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers

from vlp.build import ALLOWED_IN_FILES, build
from vlp.checkpoints import preprocessing
from vlp.models.vision.normalize import Normalize
from vlp.structures import Image

CLIP, VIT, BLIP, VILT = "CLIPImageProcessor", "ViTImageProcessor", "BlipImageProcessor", "ViltImageProcessor"
SQUARE = {"height": 48, "width": 48}


def picture() -> PIL.Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise).resize((130, 90), PIL.Image.Resampling.BICUBIC)


def saved(folder: Path, kind: str, **settings: Any) -> Any:
    size: dict[str, Any] = {
        CLIP: {"size": {"shortest_edge": 48}, "crop_size": SQUARE}, VIT: {"size": SQUARE}, BLIP: {"size": SQUARE},
        VILT: {"size": {"shortest_edge": 72}},
    }[kind]  # fmt: skip
    processor = getattr(transformers, f"{kind}Pil", getattr(transformers, kind))(**size | settings)
    processor.save_pretrained(folder)
    return processor


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (CLIP, {}),
        (CLIP, {"size": {"shortest_edge": 57}}),
        (CLIP, {"do_normalize": False}),
        (CLIP, {"rescale_factor": 1 / 127.5}),
        (CLIP, {"do_rescale": False, "image_mean": [100.0, 110.0, 120.0], "image_std": [60.0, 70.0, 80.0]}),
        (CLIP, {"resample": 2}),
        (VIT, {}),
        (VIT, {"resample": 3, "image_mean": [0.1, 0.2, 0.3]}),
        (BLIP, {}),
        (BLIP, {"size": {"height": 64, "width": 64}, "do_normalize": False}),
        (VILT, {}),
        (VILT, {"size_divisor": 16, "image_std": [0.2, 0.3, 0.4]}),
    ],
)
def test_as_transformers_does_it(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    processor = saved(tmp_path, kind, **settings)
    expected = processor(images=[picture()], return_tensors="pt")["pixel_values"]
    own = preprocessing.read_preprocessing(tmp_path, 48)
    assert own is not None
    assert own.transform is not None
    pixels = build(own.transform["eval"], allow=ALLOWED_IN_FILES)(picture())
    found = Normalize(**own.normalization)(Image(pixels=pixels[None]))
    assert found.shape == expected.shape
    one_level = float((1 / 255 / torch.tensor(own.normalization["std"])).max())
    assert float((found - expected).abs().max()) < 1.01 * one_level, "a byte may be rounded the other way"
    assert float((found - expected).abs().mean()) < 0.01 * one_level
    config = {"transform": own.transform, "model": {"vision": own.normalization}}
    (tmp_path / "again").mkdir()
    preprocessing.write_preprocessing(tmp_path / "again", kind, config)
    again = preprocessing.read_preprocessing(tmp_path / "again", 48)
    assert again is not None
    assert again.transform == own.transform
    for name, values in own.normalization.items():
        assert again.normalization[name] == pytest.approx(values)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (CLIP, {"do_resize": False}),
        (CLIP, {"do_center_crop": False}),
        (CLIP, {"resample": 0}),
        (CLIP, {"crop_size": {"height": 48, "width": 40}}),
        (VILT, {"resample": 2}),
        (BLIP, {"size": {"height": 48, "width": 40}}),
    ],
)
def test_what_ours_cannot_do_is_no_transform(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path, kind, **settings)
    own = preprocessing.read_preprocessing(tmp_path, 48)
    assert own is not None
    assert own.transform is None


def test_files_that_say_less_or_nonsense(tmp_path: Path) -> None:
    assert preprocessing.read_preprocessing(tmp_path, 48) is None
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / preprocessing.FILE).write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    own = preprocessing.read_preprocessing(tmp_path, 40)
    assert own is not None
    assert own.normalization["mean"] == [0.1, 0.2, 0.3]
    assert own.transform is not None
    assert own.transform["eval"]["image_size"] == 40, "the model's, where the file tells none"
    (tmp_path / preprocessing.FILE).write_text('{"image_processor_type": "NoSuchProcessor"}')
    with pytest.raises(ValueError, match="transformers cannot read it"):
        preprocessing.read_preprocessing(tmp_path, 40)
