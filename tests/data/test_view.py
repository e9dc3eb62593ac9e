from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from tests.data.image_files import encoded
from vlp.data.images import ImageError, open_photo
from vlp.data.transforms import EvalTransform, MinMaxTransform, TrainTransform
from vlp.data.view import View, render_view


def photo(path: Path, size: tuple[int, int] = (640, 480), seed: int = 0, **options: object) -> Path:
    """Something like a photo: smooth shapes at several scales."""
    draws = np.random.default_rng(seed)
    layers = []
    for n in (1, 4, 16):
        coarse = PIL.Image.fromarray(draws.integers(0, 256, (n * 3, n * 4, 3), dtype=np.uint8))
        layers.append(np.asarray(coarse.resize(size, PIL.Image.Resampling.BICUBIC), dtype=np.float32) / n)
    mixed = np.clip(sum(layers) / (1 + 1 / 4 + 1 / 16), 0, 255).astype(np.uint8)
    PIL.Image.fromarray(mixed).save(path, **options)
    return path


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().mean())


def cropped(path: Path, view: View) -> torch.Tensor:
    """By torchvision, as open_clip does."""
    image = PIL.Image.open(path).convert("RGB")
    top, left, height, width = (int(value) for value in (view.top, view.left, view.height, view.width))
    bicubic = v2.InterpolationMode.BICUBIC
    return pil_to_tensor(v2.functional.resized_crop(image, top, left, height, width, list(view.size), bicubic))


@pytest.mark.parametrize("size", [(640, 480), (224, 224), (200, 300), (1200, 900), (641, 479)])
def test_what_is_seen_is_what_torchvision_crops(tmp_path: Path, size: tuple[int, int]) -> None:
    path = photo(tmp_path / "a.jpg", size, quality=90)
    transform = TrainTransform(image_size=224, crop_scale=(0.5, 1.0))
    for seed in range(5):
        view = transform.choose_view(*size, random.Random(seed))
        full, reduced = render_view(open_photo(path), view, reduce=False), render_view(open_photo(path), view)
        assert full.shape == reduced.shape == (3, 224, 224)
        assert (full.int() - cropped(path, view).int()).abs().max() <= 2
        assert difference(full, cropped(path, view)) < 0.05
        assert difference(reduced, full) <= 2


def test_reduced_photos_are_seen_at_the_right_place(tmp_path: Path) -> None:
    """A sharp corner does not move: also of odd sides and of crops that do not lie on the grid of a reduced photo."""
    image = PIL.Image.new("RGB", (1001, 803), "white")
    image.paste("black", (500, 400, 1001, 803))
    image.save(tmp_path / "a.jpg", quality=95)
    for left, top in ((0, 0), (3, 5), (100, 37)):
        view = View(left=left, top=top, width=900, height=760, size=(100, 100))
        full = render_view(open_photo(tmp_path / "a.jpg"), view, reduce=False)
        reduced = render_view(open_photo(tmp_path / "a.jpg"), view)
        assert difference(full, reduced) < 0.7


def test_torchcodec_gives_the_same_pixels(tmp_path: Path) -> None:
    pytest.importorskip("torchcodec")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for name, options in (("plain", {}), ("turned", {"exif": exif}), ("progressive", {"progressive": True})):
        path = photo(tmp_path / f"{name}.jpg", (300, 200), quality=85, **options)
        plain, codec = (TrainTransform(image_size=160, decoder=decoder) for decoder in ("pillow", "torchcodec"))
        for seed in range(3):
            assert difference(plain.render(open_photo(path), seed)[0], codec.render(open_photo(path), seed)[0]) < 0.01
    data = (tmp_path / "plain.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "grey.jpg").write_bytes(encoded(PIL.Image.effect_noise((200, 200), 50)))
    (tmp_path / "cmyk.jpg").write_bytes(encoded(PIL.Image.open(tmp_path / "plain.jpg").convert("CMYK")))
    codec = TrainTransform(image_size=160, decoder="torchcodec")
    for name in ("grey.jpg", "cmyk.jpg"):
        assert codec.render(open_photo(tmp_path / name), 0)[0].shape == (3, 160, 160)
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        codec.render(open_photo(tmp_path / "cut.jpg"), 0)


def test_an_unknown_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="choose pillow or torchcodec"):
        TrainTransform(image_size=16, decoder="opencv")


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_and_classes_go_where_the_pixels_go(tmp_path: Path, flip: bool) -> None:
    """A red square on grey: its box, its class and its colour stay together, whatever is cropped, mirrored and enlarged."""
    image = PIL.Image.new("RGB", (200, 120), "grey")
    image.paste("red", (60, 30, 100, 70))
    image.save(tmp_path / "a.png")
    grid = torch.zeros(120, 200, dtype=torch.int64)
    grid[30:70, 60:100] = 5
    transforms = [
        TrainTransform(image_size=64, crop_scale=(0.6, 1.0), flip=flip),
        EvalTransform(image_size=64),
        EvalTransform(image_size=64, mode="squash"),
        MinMaxTransform(image_size=64, multiple=16),
    ]
    for transform in transforms:
        for seed in range(6):
            pixels, view = transform.render(open_photo(tmp_path / "a.png"), seed)
            rows, columns = pixels.shape[-2:]
            red = (pixels[0] > 200) & (pixels[1] < 60)
            assert red.any()
            boxes, kept = view.project_boxes([(60, 30, 100, 70), (500, 500, 600, 600)])
            assert kept == [0]
            left, top, right, bottom = (boxes[0] * torch.tensor([columns, rows, columns, rows])).tolist()
            found = red.nonzero()
            corners = [found[:, 1].min(), found[:, 0].min(), found[:, 1].max() + 1, found[:, 0].max() + 1]
            for told, seen in zip((left, top, right, bottom), corners, strict=True):
                assert abs(told - float(seen)) <= 2
            classes = view.resample_classes(grid)
            assert classes.shape == pixels.shape[-2:]
            assert float(((classes == 5) == red).float().mean()) > 0.95


def test_a_region_is_a_photo_of_its_own(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", (100, 80))
    full_size = PIL.Image.open(path)
    full_size.crop((20, 10, 70, 60)).save(tmp_path / "b.png")
    for transform in (TrainTransform(image_size=32), EvalTransform(image_size=32), MinMaxTransform(image_size=32)):
        region, _ = transform.render(open_photo(path).crop_to((20.4, 10.0, 69.5, 60.0)), 3)
        alone, _ = transform.render(open_photo(tmp_path / "b.png"), 3)
        assert torch.equal(region, alone)
    with pytest.raises(ImageError, match="a region outside the photo of 100 x 80"):
        open_photo(path).crop_to((100, 0, 120, 20))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photos_that_lie_on_their_side_are_seen_at_the_right_place(tmp_path: Path, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = photo(tmp_path / "a.jpg", (1001, 803), quality=95, exif=exif)
    width, height = open_photo(path).size
    view = View(left=4, top=8, width=width - 101, height=height - 103, size=(100, 100))
    full, reduced = render_view(open_photo(path), view, reduce=False), render_view(open_photo(path), view)
    assert difference(full, reduced) < 0.7
