"""Photos are judged by their header: bombs, foreign formats and addresses cost next to nothing."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest

from tests.deploy.serving.fake_engine import photo
from vlp.deploy.serving.errors import ApiError
from vlp.deploy.serving.limits import ServingLimits
from vlp.deploy.serving.pictures import check_picture, read_data_uri

LIMITS = ServingLimits(pixels=1_000_000)


def bomb(width: int, height: int) -> bytes:
    """A PNG of one colour: a thousandth of its pixels in bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compressor = zlib.compressobj(9)
    row = b"\0" * (width // 8 + 2)
    body = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_size_by_the_header(kind: str) -> None:
    assert check_picture(photo(size=(40, 30), kind=kind), LIMITS, "image") == (40, 30)


@pytest.mark.parametrize("size", [(1001, 1000), (14_000, 14_000), (60_000, 60_000)])
def test_bombs_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ApiError, match="above the limit of 1 megapixels") as refused:
        check_picture(bomb(*size), LIMITS, "image")
    assert (refused.value.status, refused.value.code) == (413, "image_too_large")


@pytest.mark.parametrize(
    "data", [b"", b"hello", photo(kind="GIF"), photo(kind="TIFF"), photo(kind="BMP"), photo(kind="JPEG")[:20]]
)
def test_what_is_no_photo_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError, match="no photo that can be read; send JPEG, PNG, WEBP") as refused:
        check_picture(data, LIMITS, "image")
    assert refused.value.status == 400


def test_a_jpeg_of_many_scans_is_refused() -> None:
    with pytest.raises(ApiError, match="more than 100 scans"):
        check_picture(photo() + b"\xff\xda" * 101, LIMITS, "image")


def test_a_lower_limit_for_one_use() -> None:
    with pytest.raises(ApiError, match=r"above the limit of 0\.001 megapixels"):
        check_picture(photo(), LIMITS, "image", pixels=1_000)


def test_a_data_uri() -> None:
    body = base64.b64encode(b"abc").decode()
    for head in ("data:image/jpeg;base64", "data:;base64", "data:image/png;name=a.png;base64"):
        assert read_data_uri(f"{head},{body}", "image") == b"abc"


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1/a.jpg", "HTTPS://example.org/a.jpg", "file:///etc/passwd", "ftp://a/b"]
)
def test_nothing_is_fetched(address: str) -> None:
    with pytest.raises(ApiError, match="fetches nothing") as refused:
        read_data_uri(address, "input.0")
    assert (refused.value.status, refused.value.param) == (400, "input.0")


@pytest.mark.parametrize(
    "text",
    ["", "abc", "data:image/jpeg,abc", "data:image/jpeg;base64,????", "data:image/jpeg;base64,abc", "/etc/passwd"],
)
def test_what_is_no_data_uri_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_data_uri(text, "image")
    assert (refused.value.status, refused.value.code) == (400, "invalid_image")
