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

SQUARE = {"height": 48, "width": 48}
OBLONG = {"height": 48, "width": 40}
SIZES: dict[str, dict[str, Any]] = {
    "CLIPImageProcessor": {"size": {"shortest_edge": 48}, "crop_size": SQUARE},
    "BitImageProcessor": {"size": {"shortest_edge": 57}, "crop_size": SQUARE},
    "ViTImageProcessor": {"size": SQUARE},
    "BlipImageProcessor": {"size": SQUARE},
    "SiglipImageProcessor": {"size": SQUARE},
    "DeiTImageProcessor": {"size": {"height": 64, "width": 64}, "crop_size": SQUARE},
    "BeitImageProcessor": {"size": {"height": 64, "width": 64}, "crop_size": SQUARE, "do_center_crop": True},
    "MobileNetV2ImageProcessor": {"size": {"shortest_edge": 57}, "crop_size": SQUARE},
    "LevitImageProcessor": {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 56}},
    "ViltImageProcessor": {"size": {"shortest_edge": 72}},
}
# width and height; of 99 x 64 the crop of 64 begins at 17.5, of 97 x 64 at 16.5
SHAPES = [
    (99, 64),
    (64, 99),
    (97, 64),
    (64, 64),
    (130, 91),
    (91, 130),
    (130, 90),
    (33, 71),
    (50, 49),
    (300, 201),
    (48, 48),
]


def picture(width: int = 130, height: int = 90) -> PIL.Image.Image:
    noise = np.random.default_rng(width).integers(0, 255, (9, 13, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise).resize((width, height), PIL.Image.Resampling.BICUBIC)


def saved(folder: Path, kind: str, backend: str = "Pil", **settings: Any) -> Any:
    processor = getattr(transformers, f"{kind}{backend}")(**SIZES.get(kind, {}) | settings)
    processor.save_pretrained(folder)
    return processor


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {}) for kind in SIZES),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 57}}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 57}, "crop_size": OBLONG}),
        ("CLIPImageProcessor", {"do_normalize": False}),
        ("CLIPImageProcessor", {"rescale_factor": 1 / 127.5}),
        (
            "CLIPImageProcessor",
            {"do_rescale": False, "image_mean": [100.0, 110.0, 120.0], "image_std": [60.0, 70.0, 80.0]},
        ),
        ("CLIPImageProcessor", {"resample": 0}),
        ("CLIPImageProcessor", {"resample": 1}),
        ("CLIPImageProcessor", {"resample": 2}),
        ("ViTImageProcessor", {"resample": 3, "image_mean": [0.1, 0.2, 0.3]}),
        ("BlipImageProcessor", {"size": {"height": 64, "width": 64}, "do_normalize": False}),
        ("BlipImageProcessor", {"size": OBLONG}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        ("ConvNextImageProcessor", {"crop_pct": 0.95}),
        ("ViltImageProcessor", {"size_divisor": 16, "image_std": [0.2, 0.3, 0.4]}),
    ],
)
def test_pictures_of_any_shape_as_transformers_does_it(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    processor = saved(tmp_path, kind, **settings)
    own = preprocessing.read_preprocessing(tmp_path, 48)
    assert own is not None
    assert own.transform is not None
    transform, normalize = build(own.transform["eval"], allow=ALLOWED_IN_FILES), Normalize(**own.normalization)
    one_level = float((1 / 255 / normalize.std).max())
    for shape in SHAPES:
        expected = processor(images=[picture(*shape)], return_tensors="pt")["pixel_values"]
        found = normalize(Image(pixels=transform(picture(*shape))[None]))
        assert found.shape == expected.shape, shape
        assert float((found - expected).abs().max()) < 1e-3 * one_level, shape
    config = {"transform": own.transform, "model": {"vision": own.normalization}}
    (tmp_path / "again").mkdir()
    preprocessing.write_preprocessing(
        tmp_path / "again", "CLIPImageProcessor" if kind != "ViltImageProcessor" else kind, config
    )
    again = preprocessing.read_preprocessing(tmp_path / "again", 48)
    assert again is not None
    assert again.transform == own.transform
    for name, values in own.normalization.items():
        assert again.normalization[name] == pytest.approx(values)


def test_pictures_of_owlv2_lie_at_the_top_left_of_a_black_square(tmp_path: Path) -> None:
    """transformers blurs before it makes a picture smaller and Pillow smooths, so that pixels differ by a level on average, and
    more only where the picture meets the black."""
    processor = saved(tmp_path, "Owlv2ImageProcessor", size={"height": 96, "width": 96})
    own = preprocessing.read_preprocessing(tmp_path, 960)
    assert own is not None
    assert own.transform is not None
    assert own.transform["eval"]["image_size"] == 96
    transform, normalize = build(own.transform["eval"], allow=ALLOWED_IN_FILES), Normalize(**own.normalization)
    for width, height in ((640, 480), (480, 640), (300, 1200), (64, 48)):
        expected = processor(images=[picture(width, height)], return_tensors="pt")["pixel_values"]
        found = normalize(Image(pixels=transform(picture(width, height))[None]))
        differences = (found - expected).abs() * 255 * normalize.std
        assert float(differences.mean()) < 1.5
        rows, columns = round(96 * height / max(width, height)), round(96 * width / max(width, height))
        assert float(differences[..., : rows - 2, : columns - 2].max()) < 12, (width, height)
        black = normalize(Image(pixels=torch.zeros(1, 3, 96, 96, dtype=torch.uint8)))
        for part in ((..., slice(rows + 1, None), slice(None)), (..., slice(None), slice(columns + 1, None))):
            torch.testing.assert_close(expected[part], black[part], atol=1e-2, rtol=0)
            torch.testing.assert_close(found[part], black[part])
    (tmp_path / "again").mkdir()
    config = {"transform": own.transform, "model": {"vision": own.normalization}}
    preprocessing.write_preprocessing(tmp_path / "again", "Owlv2ImageProcessor", config)
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path / "again", backend="pil")
    assert (again.do_pad, again.resample, again.size) == (True, processor.resample, processor.size)
    assert preprocessing.read_preprocessing(tmp_path / "again", 960) == own


def test_transformers_other_backend_sees_the_same_part_of_the_picture(tmp_path: Path) -> None:
    """torchvision's kernels differ from Pillow's by single levels, an offset of one pixel by many."""
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    processor = saved(tmp_path, "CLIPImageProcessor", "", **size, do_normalize=False, do_rescale=False)
    own = preprocessing.read_preprocessing(tmp_path, 64)
    assert own is not None
    assert own.transform is not None
    transform = build(own.transform["eval"], allow=ALLOWED_IN_FILES)
    for shape in SHAPES:
        expected = processor(images=[picture(*shape)], return_tensors="pt")["pixel_values"][0]
        assert int((transform(picture(*shape)).int() - expected.int()).abs().max()) <= 2, shape


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1", "CMYK", "transparent palette", "transparent colour"])
def test_pictures_of_other_modes_as_transformers_does_it(mode: str) -> None:
    image = picture()
    image.putalpha(picture(90, 130).convert("L").resize(image.size))
    if mode.startswith("transparent"):
        image = image.convert("RGB").quantize(8) if "palette" in mode else image.convert("RGB")
        image.info["transparency"] = image.getpixel((5, 5))
    else:
        image = image.convert("RGB").convert(mode) if mode in ("P", "CMYK") else image.convert(mode)
    processor = transformers.CLIPImageProcessorPil(**SIZES["CLIPImageProcessor"], do_normalize=False, do_rescale=False)
    expected = processor(images=[image], return_tensors="pt")["pixel_values"][0]
    node = preprocessing.hugging_face_transform(48)["eval"]
    assert torch.equal(build(node, allow=ALLOWED_IN_FILES)(image), expected)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("CLIPImageProcessor", {"do_resize": False}),
        ("CLIPImageProcessor", {"do_center_crop": False}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 40}}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 48, "longest_edge": 64}}),
        ("ViltImageProcessor", {"resample": 2}),
        ("PoolFormerImageProcessor", {}),
        ("EfficientNetImageProcessor", {}),
        ("PerceiverImageProcessor", {}),
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
