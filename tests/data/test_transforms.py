from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import timm
import torch
from torchvision.transforms.v2.functional import pil_to_tensor

from vlp.data.collate import pad_images
from vlp.data.images import ImageError, open_image
from vlp.data.transforms import EvalTransform, MinMaxTransform, TrainTransform
from vlp.random import seeded

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def test_evaluation_equals_the_preprocessing_of_clip(shared: Path) -> None:
    folder = shared / "reference" / "openai_clip" / "preprocess"
    with np.load(folder / "outputs.npz") as expected:
        assert len(expected.files) == 7
        for name in expected.files:
            stem, size = name.split("_")
            pixels = EvalTransform(image_size=int(size))(open_image(folder / f"{stem}.png"))
            torch.testing.assert_close((pixels / 255 - MEAN) / STD, torch.from_numpy(expected[name]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (17, 300)])
def test_odd_shapes_keep_their_size_and_colour(size: tuple[int, int]) -> None:
    image = PIL.Image.new("RGB", size, (10, 100, 200))
    for transform in (
        EvalTransform(image_size=224),
        EvalTransform(image_size=224, mode="squash"),
        TrainTransform(image_size=224),
    ):
        pixels = transform(image)
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (3, 224, 224)
        assert pixels.flatten(1).unique(dim=1).T.tolist() == [[10, 100, 200]]


SHAPES = [(99, 64), (64, 99), (97, 64), (64, 64), (130, 91), (91, 130), (500, 333), (33, 71), (50, 49), (700, 61)]


def assert_equal_pixels(transform: EvalTransform, reference: Any) -> None:
    """reference: from a picture to [0, 1]."""
    for width, height in SHAPES:
        image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))
        assert torch.equal(transform(image), (reference(image) * 255).round().to(torch.uint8)), (width, height)


@pytest.mark.parametrize("size", [64, (48, 64), (64, 48), (32, 96)])
@pytest.mark.parametrize(("mode", "resize_mode"), [("clip", "shortest"), ("squash", "squash")])
def test_evaluation_equals_open_clips(size: int | tuple[int, int], mode: str, resize_mode: str) -> None:
    library = pytest.importorskip("open_clip")
    plain: Any = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    reference = library.image_transform(size, is_train=False, resize_mode=resize_mode, **plain)
    assert_equal_pixels(EvalTransform(image_size=size, mode=mode), reference)


@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
def test_evaluation_equals_timms(crop_pct: float) -> None:
    plain: Any = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    reference = timm.data.create_transform((3, 64, 64), crop_pct=crop_pct, interpolation="bicubic", **plain)
    assert_equal_pixels(EvalTransform(image_size=64, resize=math.floor(64 / crop_pct)), reference)


def test_a_long_picture_gives_the_pixels_that_its_full_resizing_gives() -> None:
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (61, 3000, 3), dtype=np.uint8))
    full = image.resize((64 * 3000 // 61, 64), PIL.Image.Resampling.BICUBIC).crop((1541, 0, 1605, 64))
    pixels = EvalTransform(image_size=64, crop_offset="floor")(image)
    assert int((pixels.int() - pil_to_tensor(full).int()).abs().max()) <= 1


def test_a_view_of_an_oblong_image() -> None:
    image = PIL.Image.new("RGB", (200, 100), "white")
    image.paste("black", (0, 0, 60, 100))
    for transform in (EvalTransform(image_size=[100, 80]), TrainTransform(image_size=[100, 80])):
        assert transform(image).shape == (3, 100, 80)
    assert EvalTransform(image_size=[100, 80])(image).min() > 200, "the centre, from 60 to 140"
    view = EvalTransform(image_size=[50, 40]).choose_view(200, 100, random.Random(0))
    assert (view.left, view.top, view.width, view.height, view.size) == (60, 0, 80, 100, (50, 40))
    with pytest.raises(ValueError, match=r"image_size=\[1, 2, 3\]: give pixels"):
        EvalTransform(image_size=[1, 2, 3])
    with pytest.raises(ValueError, match=r"resize=40 of EvalTransform: give at least"):
        EvalTransform(image_size=48, resize=40)


def test_clip_shows_the_centre_and_squash_everything() -> None:
    image = PIL.Image.new("RGB", (300, 100), "white")
    image.paste("black", (0, 0, 100, 100))
    assert EvalTransform(image_size=100)(image).min() > 200
    assert EvalTransform(image_size=100, mode="squash")(image)[:, 50, 10].max() < 50
    with pytest.raises(ValueError, match="choose clip or squash"):
        EvalTransform(image_size=100, mode="crop")


def test_training_draws_depend_on_the_seed_alone() -> None:
    image = PIL.Image.effect_noise((60, 40), 90)
    transform = TrainTransform(image_size=32, flip=True, rand_augment=[2, 9], colour_jitter=[0.4, 0.4, 0.4, 0.1])
    views = []
    for seed in (1, 2, 1):
        with seeded(seed):
            views.append(transform(image))
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])


@pytest.mark.parametrize("flip", [False, True])
def test_mirroring_only_when_asked_for(flip: bool) -> None:
    image = PIL.Image.new("L", (40, 40), 255)
    image.paste(0, (0, 0, 20, 40))  # dark on the left
    transform = TrainTransform(image_size=32, crop_scale=(0.9, 1.0), crop_ratio=(1.0, 1.0), flip=flip)
    mirrored = [bool(transform(image)[0, 16, 2] > 128) for _ in range(40)]
    assert any(mirrored) == flip
    assert not all(mirrored)


def test_shapes_are_kept_as_vilt_keeps_them(shared: Path) -> None:
    """Pillow 13 resizes one of the pictures differently."""
    folder = shared / "reference" / "vilt" / "preprocess"
    expected = dict(np.load(folder / "outputs.npz"))
    if int(PIL.__version__.split(".")[0]) >= 13:
        expected |= dict(np.load(folder / "outputs_pillow13.npz"))
    assert len(expected) == 5
    for name, values in expected.items():
        stem, size = name.split("_size")
        pixels = MinMaxTransform(image_size=int(size))(open_image(folder / f"{stem}.png"))
        torch.testing.assert_close((pixels / 255 - 0.5) / 0.5, torch.from_numpy(values), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("size", "options", "shape"),
    [
        ((640, 480), {}, (384, 512)),
        ((480, 640), {}, (512, 384)),
        ((500, 500), {}, (384, 384)),
        ((1000, 400), {}, (256, 608)),  # the longer side may have 639 pixels, and 608 are the most that 32 divides
        ((1000, 400), {"longest": 960}, (384, 960)),
        ((640, 480), {"multiple": 1}, (384, 512)),
        ((100, 60), {"image_size": 64, "multiple": 8}, (64, 104)),
    ],
)
def test_the_shorter_side_is_set_and_the_longer_one_bounded(
    size: tuple[int, int], options: dict[str, int], shape: tuple[int, int]
) -> None:
    pixels = MinMaxTransform(**options)(PIL.Image.new("RGB", size, (10, 100, 200)))
    assert pixels.shape == (3, *shape)
    assert pixels.dtype == torch.uint8
    assert pixels.flatten(1).unique(dim=1).T.tolist() == [[10, 100, 200]]


def test_an_image_of_which_nothing_would_be_left() -> None:
    with pytest.raises(ImageError, match="image of 200 x 40 pixels: too narrow, the shorter side would have 21"):
        MinMaxTransform(image_size=64)(PIL.Image.new("RGB", (200, 40)))


def test_augmentation_of_whole_images() -> None:
    image = PIL.Image.effect_noise((90, 60), 90)
    transform = MinMaxTransform(image_size=64, rand_augment=[2, 9])
    views = []
    for seed in (1, 2, 1):
        with seeded(seed):
            views.append(transform(image))
    assert views[0].shape == (3, 64, 96)
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])


def test_images_of_different_sizes_become_one_batch() -> None:
    pictures = [torch.full((3, *size), 9, dtype=torch.uint8) for size in ((4, 6), (5, 2), (5, 6))]
    image = pad_images(pictures)
    assert image.pixels.shape == (3, 3, 5, 6)
    assert image.size is not None
    assert image.size.tolist() == [[4, 6], [5, 2], [5, 6]]
    for row, (height, width) in zip(image.pixels, image.size.tolist(), strict=True):
        assert int(row.long().sum()) == 9 * 3 * height * width
        assert (row[:, :height, :width] == 9).all()
    assert pad_images(pictures[:1]).size is None
