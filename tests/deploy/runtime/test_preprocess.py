"""The pixels of an artifact against those of the transform that was exported, bit by bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.data.image_files import encoded, png_header
from tests.data.pictures import picture
from vlp.data.images import ImageError, open_image
from vlp.data.padded_transforms import Letterbox
from vlp.data.transforms import EvalTransform, MinMaxTransform, Transform
from vlp.deploy.export.transform_spec import to_spec, write_transform
from vlp.deploy.runtime.preprocess import PicturePreprocessing, read_preprocessing
from vlp.system.errors import UserError
from vlp.verbs.pictures import open_picture, photo_frame

ORIENTATION = 0x0112


def turned(kind: str, orientation: int, size: tuple[int, int] = (61, 43)) -> bytes:
    image = picture(orientation, size)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    return encoded(image, kind, exif=exif)


def odd_photos() -> dict[str, bytes]:
    colour = picture(1, (61, 43))
    grey16 = PIL.Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257)
    alpha = colour.convert("RGBA")
    alpha.putalpha(colour.convert("L"))
    palette = colour.quantize(16)
    files = {
        "rgb.png": encoded(colour, "PNG"),
        "photo.jpg": encoded(picture(2, (320, 200)), quality=90),
        "large.jpg": encoded(picture(3, (403, 301)), quality=90),
        "grey.jpg": encoded(picture(4, (150, 100)).convert("L")),
        "cmyk.jpg": encoded(picture(5, (150, 100)).convert("CMYK")),
        "palette.png": encoded(palette, "PNG"),
        "palette_transparent.png": encoded(palette, "PNG", transparency=3),
        "palette.gif": encoded(palette, "GIF"),
        "one_bit.png": encoded(colour.convert("1"), "PNG"),
        "grey16.png": encoded(grey16, "PNG"),
        "grey_alpha.png": encoded(alpha.convert("LA"), "PNG"),
        "rgba.png": encoded(alpha, "PNG"),
        "rgba.webp": encoded(alpha, "WEBP", lossless=True),
        "float.tif": encoded(PIL.Image.fromarray(np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)), "TIFF"),
        "narrow.png": encoded(picture(6, (30, 1000)).resize((1, 1000)), "PNG"),
        "flat.jpg": encoded(picture(7, (1000, 30)).resize((1000, 2))),
        "pixel.png": encoded(colour.resize((1, 1)), "PNG"),
        "exact.png": encoded(picture(8, (24, 24)), "PNG"),
    }
    files |= {f"turned{orientation}.jpg": turned("JPEG", orientation) for orientation in range(1, 9)}
    files |= {f"turned{orientation}.png": turned("PNG", orientation) for orientation in (3, 6)}
    return files


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for name, data in odd_photos().items():
        (folder / name).write_bytes(data)
    return sorted(folder.iterdir())


def eval_transforms() -> list[dict[str, Any]]:
    sizes = [
        ("clip", 24, None),
        ("clip", 24, 31),
        ("clip", [24, 20], None),
        ("squash", 24, None),
        ("squash", [20, 26], [23, 31]),
    ]
    interpolations = cycle(("bicubic", "bilinear", "nearest", "lanczos"))
    return [
        {"mode": mode, "image_size": size, "resize": resize, "crop_offset": offset, "rgb": rgb, "interpolation": each}
        for (mode, size, resize), offset, rgb in product(sizes, ("round", "floor"), ("last", "first", "on_white"))
        for each in (next(interpolations),)
    ]


LETTERBOXES: list[dict[str, Any]] = [
    {"image_size": 24},
    {"image_size": [30, 21], "where": "centre", "fill": (0, 0, 0), "interpolation": "bilinear"},
    {"image_size": [21, 31], "where": "centre", "fill": [255, 1, 2], "interpolation": "lanczos"},
]


def agree(transform: Transform, photos: list[Path], folder: Path) -> None:
    write_transform(to_spec(transform), folder)
    read = read_preprocessing(folder / "transform.json")
    loaded = read.load(photos)
    assert loaded.pixels.dtype == np.uint8
    for path, pixels, frame, size in zip(photos, loaded.pixels, loaded.frames, loaded.sizes, strict=True):
        image = open_image(path)
        np.testing.assert_array_equal(pixels, transform(image).numpy(), err_msg=path.name)
        assert tuple(frame) == photo_frame(transform, image), path.name
        assert size == (image.height, image.width)


def test_every_setting_on_odd_photos(photos: list[Path], tmp_path: Path) -> None:
    for settings in eval_transforms():
        agree(EvalTransform(**settings), photos, tmp_path)
    for settings in LETTERBOXES:
        agree(Letterbox(**settings), photos, tmp_path)


def test_paths_bytes_and_pillows_images_have_the_same_pixels(photos: list[Path]) -> None:
    read = to_spec(EvalTransform(image_size=24))
    expected = read.load(photos)
    given: list[Callable[[Path], Any]] = [str, Path.read_bytes, PIL.Image.open]
    for form in given:
        loaded = read.load([form(path) for path in photos])
        np.testing.assert_array_equal(loaded.pixels, expected.pixels)
        np.testing.assert_array_equal(loaded.frames, expected.frames)
        assert loaded.sizes == expected.sizes
    assert read.load([open_picture(photos[0])]).sizes == expected.sizes[:1]


@pytest.mark.parametrize("transform", [EvalTransform(image_size=24), EvalTransform(image_size=24, mode="squash", rgb="first"),
                                       Letterbox(image_size=[24, 30], where="centre")])  # fmt: skip
def test_large_jpegs_are_decoded_reduced_where_the_file_says_so(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transform: Transform
) -> None:
    """The same part of the photo at almost the same colours, from fewer pixels."""
    write_transform(to_spec(transform, jpeg_multiple=2), tmp_path)
    reduced, full = read_preprocessing(tmp_path / "transform.json"), to_spec(transform)
    decoded: list[tuple[int, int]] = []
    load = PIL.Image.Image.load
    monkeypatch.setattr(PIL.Image.Image, "load", lambda image: (decoded.append(image.size), load(image))[1])
    smooth = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(
        (1203, 901)
    )
    data = encoded(smooth, quality=95)
    few, many = reduced.load([data]), full.load([data])
    assert (151, 113) in decoded, "1203 x 901 at an eighth, rounded up"
    np.testing.assert_array_equal(few.frames, many.frames)
    assert few.sizes == many.sizes == [(901, 1203)]
    difference = np.abs(few.pixels.astype(int) - many.pixels)
    assert difference.mean() < 1.5
    assert difference.max() < 20
    small = [path for path in photos if path.name not in ("photo.jpg", "large.jpg", "grey.jpg", "cmyk.jpg")]
    np.testing.assert_array_equal(reduced.load(small).pixels, full.load(small).pixels)


def test_a_turned_photo_is_reduced_only_where_its_last_pixels_are_complete() -> None:
    read = PicturePreprocessing(resizer=EvalTransform(image_size=24).resizer, jpeg_multiple=2)
    for size, largest in (((1200, 800), 8), ((1204, 804), 4), ((1201, 800), 1)):
        image, full, factor = read._open(turned("JPEG", 6, size))
        assert (factor, full) == (largest, size[::-1])
        assert image.size == (size[1] // largest, size[0] // largest)


def test_one_sentence_for_each_wrong_file_or_picture(tmp_path: Path) -> None:
    read = to_spec(EvalTransform(image_size=24))
    (tmp_path / "text.jpg").write_text("no photo")
    (tmp_path / "cut.png").write_bytes(odd_photos()["rgb.png"][:400])
    for given, message in (
        (tmp_path / "absent.jpg", "absent.jpg: No such file or directory"),
        (tmp_path / "text.jpg", "text.jpg: not an image"),
        (tmp_path / "cut.png", "cut.png: damaged or cut off"),
        (tmp_path, "Is a directory"),
        (b"", "the picture: empty file"),
        (b"no photo", "the picture: not an image"),
        (png_header(20_000, 20_000), "the picture: image above the limit of 80000000 pixels"),
        (encoded(picture(1, (90, 60)))[:500], "the picture: damaged or cut off"),
    ):
        with pytest.raises(ImageError, match=message) as raised:
            read.load([given])
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="must be a list with at least one entry"):
        read.load([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resizer": "magic"}, r"no resizer that this vlp knows \(eval, letterbox\)"),
        ({"orientation": "stored"}, "orientation='stored', and this vlp knows 'exif' alone"),
        ({"eight_bit": None}, "eight_bit=None"),
        ({"colour": "red"}, "colour"),
        ({"mode": "stretch"}, "unknown mode 'stretch'"),
        ({"image_size": [24]}, "image_size="),
        ({"jpeg_multiple": 0}, "jpeg_multiple=0: give a whole number"),
    ],
)
def test_settings_that_are_unknown(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "transform.json"
    path.write_text(json.dumps(to_spec(EvalTransform(image_size=24)).spec() | change))
    with pytest.raises(UserError, match=message) as raised:
        read_preprocessing(path)
    assert str(raised.value).startswith(str(path))


def test_a_transform_that_no_settings_describe_is_named() -> None:
    class Mine(EvalTransform):
        pass

    for transform, name in (
        (MinMaxTransform(), "MinMaxTransform"),
        (len, "len"),
        (Mine(image_size=8), "Mine"),
        (None, "none"),
    ):
        with pytest.raises(UserError, match=rf"\({name}\) cannot be written to an artifact: set predictor.transform"):
            to_spec(transform)
