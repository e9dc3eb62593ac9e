from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.data.image_files import encoded, png_header
from vlp.data.images import ImageError, file_sha256, image_size, open_image, open_photo, read_bytes, to_rgb
from vlp.data.transforms import EvalTransform
from vlp.structures import Member

RED = (200, 30, 60)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "LA", "1", "I;16", "I", "F", "YCbCr", "HSV"])
def test_every_mode_becomes_the_right_rgb(mode: str) -> None:
    grey = 150
    colour = PIL.Image.new("RGB", (5, 4), RED)
    made = {
        "L": (PIL.Image.new("L", (5, 4), grey), (grey,) * 3),
        "LA": (PIL.Image.new("LA", (5, 4), (grey, 10)), (grey,) * 3),
        "1": (PIL.Image.new("1", (5, 4), 1), (255,) * 3),
        "I;16": (PIL.Image.fromarray(np.full((4, 5), grey * 257, dtype=np.uint16)), (grey,) * 3),
        "I": (PIL.Image.fromarray(np.full((4, 5), grey * 257, dtype=np.int32)), (grey,) * 3),
        "F": (PIL.Image.fromarray(np.full((4, 5), grey / 255, dtype=np.float32)), (grey,) * 3),
        "P": (colour.quantize(4), RED),
        "RGBA": (PIL.Image.new("RGBA", (5, 4), (*RED, 0)), RED),
    }
    image, expected = made[mode] if mode in made else (colour.convert(mode), RED)
    assert image.mode == mode
    pixels = np.asarray(to_rgb(image))
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 3  # YCbCr and HSV round


def test_a_transparent_palette_keeps_its_colours(tmp_path: Path) -> None:
    image = PIL.Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    image.save(tmp_path / "a.png", transparency=bytes([0, 0]))
    assert open_image(tmp_path / "a.png").mode == "P"
    assert np.asarray(to_rgb(open_image(tmp_path / "a.png"))).reshape(-1, 3).tolist() == [list(RED)] * 16


def test_values_of_unknown_scale_are_refused() -> None:
    with pytest.raises(ImageError, match="outside 0 to 1"):
        to_rgb(PIL.Image.fromarray(np.full((4, 5), 7.0, dtype=np.float32)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(tmp_path: Path, kind: str) -> None:
    image = PIL.Image.new("RGB", (40, 20), "white")
    image.paste("black", (0, 0, 40, 8))  # dark at the top as stored, so dark at the right when upright
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").write_bytes(encoded(image, kind, exif=exif))
    upright = open_image(tmp_path / "a").convert("L")
    assert upright.size == (20, 40)
    assert upright.getpixel((18, 20)) < 60
    assert upright.getpixel((2, 20)) > 200


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(tmp_path: Path, kind: str) -> None:
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:])
    assert to_rgb(open_image(tmp_path / "a")).getpixel((4, 4))[0] > 240


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow's own warning of a bomb
def test_damaged_and_foreign_files_are_errors_with_path_and_reason(tmp_path: Path) -> None:
    noise = PIL.Image.effect_noise((64, 64), 90).convert("RGB")
    jpeg, png = encoded(noise, "JPEG"), encoded(noise, "PNG")
    cases = {
        "empty": (b"", "empty file"),
        "page": (b"<html>404</html>", "not an image"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "damaged or cut off"),
        "almost.jpg": (jpeg[:-2], "damaged or cut off"),
        "flipped.png": (png[:2000] + bytes([png[2000] ^ 255]) + png[2001:], "damaged"),
        "large.png": (png_header(12000, 12000), "above the limit of 80000000 pixels"),
        "bomb.png": (png_header(30000, 30000), "above the limit of 80000000 pixels"),
        "icon.ico": (encoded(noise, "ICO"), "not an image"),
    }
    for name, (data, reason) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=reason) as caught:
            open_image(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(ImageError, match="limit of 100 bytes"):
        open_image(tmp_path / "a.png", max_bytes=100)


def test_missing_files_folders_and_broken_links(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    os.symlink(tmp_path / "nowhere", tmp_path / "link.jpg")
    for name, reason in (("x.jpg", "Is a directory"), ("link.jpg", "No such file"), ("none.jpg", "No such file")):
        with pytest.raises(ImageError, match=reason):
            open_image(tmp_path / name)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about some of the damage
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_flipped_bytes_never_raise_anything_else(tmp_path: Path, kind: str) -> None:
    data = encoded(PIL.Image.effect_noise((32, 24), 90).convert("RGB"), kind)
    draws = np.random.default_rng(0)
    for number in range(60):
        broken = bytearray(data)
        for place in draws.integers(0, len(data), 4):
            broken[place] ^= int(draws.integers(1, 256))
        (tmp_path / "a").write_bytes(broken)
        try:
            pixels = EvalTransform(image_size=16)(open_image(tmp_path / "a"))
        except ImageError:
            continue
        assert pixels.shape == (3, 16, 16), number


def test_large_jpegs_may_be_decoded_smaller(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (640, 480), RED).save(tmp_path / "a.jpg")
    assert open_image(tmp_path / "a.jpg").size == (640, 480)
    assert open_image(tmp_path / "a.jpg", decode_side=100).size == (160, 120)


def test_the_size_is_read_from_the_header_alone(tmp_path: Path) -> None:
    (tmp_path / "header.png").write_bytes(png_header(9_000, 8_000))
    assert image_size(tmp_path / "header.png") == (9_000, 8_000)
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (tmp_path / "text.jpg").write_bytes(b"not an image")
    for name, reason in {"bomb.png": "above the limit", "text.jpg": "not an image", "gone.jpg": "No such file"}.items():
        with pytest.raises(ImageError, match=reason):
            image_size(tmp_path / name)


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a").hex().startswith("ba7816bf8f01cfea")
    with pytest.raises(ImageError, match="No such file"):
        file_sha256(tmp_path / "b")


def test_what_would_be_waited_for_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a file"):
        open_image(tmp_path / "pipe.jpg")


def test_a_phone_writes_several_jpegs_into_one_file(tmp_path: Path) -> None:
    first, second = PIL.Image.new("RGB", (40, 20), "red"), PIL.Image.new("RGB", (40, 20), "blue")
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    photo = open_photo(tmp_path / "a.jpg")
    assert (photo.format, photo.size) == ("JPEG", (40, 20))
    assert to_rgb(open_image(tmp_path / "a.jpg")).getpixel((5, 5))[0] > 200


def test_an_orientation_told_in_xmp_counts(tmp_path: Path) -> None:
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    PIL.Image.new("RGB", (40, 20), "red").save(tmp_path / "a.jpg", xmp=xmp)
    assert open_photo(tmp_path / "a.jpg").size == (20, 40)
    assert open_image(tmp_path / "a.jpg").size == (20, 40)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize(("name", "kind", "options"), [("a.avif", "AVIF", {"quality": 100}), ("a.jp2", "JPEG2000", {}),
                                                       ("a.j2k", "JPEG2000", {"no_jp2": True})])  # fmt: skip
def test_avif_and_jpeg_2000(tmp_path: Path, name: str, kind: str, options: dict[str, object], mode: str) -> None:
    """JPEG 2000 is lossless here; AVIF nearly so."""
    grid = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(grid).resize((32, 24), PIL.Image.Resampling.BICUBIC).convert(mode)
    (tmp_path / name).write_bytes(encoded(image, kind, **options))
    photo = open_photo(tmp_path / name)
    assert (photo.format, photo.size, image_size(tmp_path / name)) == (kind, (32, 24), (32, 24))
    pixels = np.asarray(to_rgb(open_image(tmp_path / name))).astype(int)
    assert np.abs(pixels - np.asarray(to_rgb(image))).max() <= (0 if kind == "JPEG2000" else 16)


def test_a_shard_that_is_removed_before_it_is_opened_is_fetched_again(tmp_path: Path) -> None:
    archive, fetched = tmp_path / "a.tar", []

    def fetch() -> Path:
        fetched.append(1)
        if len(fetched) > 2:  # twice another process removes it at once
            archive.write_bytes(b"0123456789")
        return archive

    assert read_bytes(Member(archive=archive, name="a.jpg", offset=2, size=3, fetch=fetch)) == b"234"
    assert len(fetched) == 3
