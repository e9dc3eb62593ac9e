from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.deploy.index.photos import DATE_TIME_ORIGINAL, EXIF_IFD, draw_photo, save_photo
from tests.tars import write as write_tar
from vlp.data.images import FORMATS, ImageError
from vlp.deploy.index.photo_files import HEAD_BYTES, date_taken, is_member, thumbnail_jpeg, why_no_photo
from vlp.system.errors import UserError


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_known_by_its_content(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "photo.unknown"
    draw_photo("red").save(file, format=kind)
    assert why_no_photo(str(file), file.read_bytes()[:HEAD_BYTES]) is None


def test_other_files_are_named() -> None:
    assert why_no_photo("a.txt", b"hello") == "no photo"
    assert why_no_photo("a.txt", b"") == "no photo"
    assert why_no_photo("a.mp4", b"\0\0\0\x18ftypmp42") == "no photo"
    assert "in spite of its name" in str(why_no_photo("a.JPG", b"%PDF-1.4"))
    assert "raw file" in str(why_no_photo("a.CR2", b"II*\0"))
    assert "HEIC" in str(why_no_photo("IMG_1.jpg", b"\0\0\0\x18ftypheic"))


def test_the_date_taken_is_that_of_the_original(tmp_path: Path) -> None:
    file = save_photo(tmp_path / "1.jpg", "red", taken="2024:05:01 12:30:00")
    assert date_taken(PIL.Image.open(file)) == "2024-05-01T12:30:00"
    exif = PIL.Image.Exif()
    exif[0x0132] = "2020:01:02 03:04:05"  # when the file was written
    exif.get_ifd(EXIF_IFD)[DATE_TIME_ORIGINAL] = "0000:00:00 00:00:00"
    draw_photo("red").save(tmp_path / "2.jpg", exif=exif)
    assert date_taken(PIL.Image.open(tmp_path / "2.jpg")) == "2020-01-02T03:04:05"
    assert date_taken(draw_photo("red")) is None


def test_thumbnails_are_small_upright_jpegs_of_any_mode(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    draw_photo("red").resize((400, 200)).save(tmp_path / "turned.jpg", exif=exif)
    PIL.Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    PIL.Image.fromarray(np.full((300, 300), 40_000, np.uint16)).save(tmp_path / "grey.png")
    turned = PIL.Image.open(io.BytesIO(thumbnail_jpeg(str(tmp_path / "turned.jpg"), 100)))
    assert (turned.format, turned.size) == ("JPEG", (50, 100))
    clear = PIL.Image.open(io.BytesIO(thumbnail_jpeg(str(tmp_path / "clear.png"), 100)))
    assert (clear.size, clear.getpixel((20, 20))) == ((50, 50), (255, 255, 255))
    grey = PIL.Image.open(io.BytesIO(thumbnail_jpeg(str(tmp_path / "grey.png"), 64)))
    assert grey.size == (64, 64)


def test_a_thumbnail_of_a_missing_or_damaged_file_or_a_bomb(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1.jpg: the file is missing; `vlp index` notices"):
        thumbnail_jpeg(str(tmp_path / "1.jpg"), 64)
    (tmp_path / "2.jpg").write_bytes(b"\xff\xd8\xff damaged")
    with pytest.raises(ImageError, match="not an image"):
        thumbnail_jpeg(str(tmp_path / "2.jpg"), 64)
    PIL.Image.new("1", (10_000, 9_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="above the limit of 80000000 pixels"):
        thumbnail_jpeg(str(tmp_path / "bomb.png"), 64)


def test_a_photo_in_a_tar_has_a_thumbnail_too(tmp_path: Path) -> None:
    stream = io.BytesIO()
    draw_photo("red").save(stream, "PNG")
    tar = tmp_path / "a.tar"
    write_tar(tar, [("1.png", stream.getvalue())])
    path = f"{tar}!{512}+{len(stream.getvalue())}/1.png"
    assert is_member(path)
    assert not is_member(os.fspath(tar))
    assert PIL.Image.open(io.BytesIO(thumbnail_jpeg(path, 32))).size == (32, 32)
