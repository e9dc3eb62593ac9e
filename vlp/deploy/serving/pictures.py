"""Photos in requests: from text or upload to bytes, checked by their header before anything is decoded.

A PNG of 62 kB can be 330 MB of pixels, and Pillow only warns below 179 megapixels. Nothing is ever fetched from an address: that
would let clients reach whatever the server can reach.
"""

from __future__ import annotations

import base64
import binascii
import io
import warnings

import PIL.Image

from vlp.deploy.serving.errors import ApiError
from vlp.deploy.serving.limits import ServingLimits

FORMATS = ("JPEG", "PNG", "WEBP")
SCANS = 100  # of a progressive JPEG, each as long as a picture to decode; usual are 10
_SCAN_MARKER = b"\xff\xda"


def read_data_uri(text: str, param: str) -> bytes:
    """The bytes of data:image/jpeg;base64,…  Raises ApiError."""
    scheme = text[:40].partition(":")[0].lower()
    if scheme in ("http", "https", "file", "ftp"):
        message = f"{param}: this server fetches nothing from {scheme}: addresses; send the photo itself as a data URI"
        raise ApiError(
            400, f"{message} (data:image/jpeg;base64,…) or as a file of a form", code="no_fetching", param=param
        )
    head, comma, body = text.partition(",")
    if scheme != "data" or not comma or not head.lower().endswith(";base64"):
        message = f"{param}: a photo is a data URI in base64, which begins with data:image/jpeg;base64,"
        raise ApiError(400, message, code="invalid_image", param=param)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{param}: its base64 is damaged ({error})", code="invalid_image", param=param) from error


def check_picture(data: bytes, limits: ServingLimits, param: str, *, pixels: int | None = None) -> tuple[int, int]:
    """Width and height in pixels, by the header.  pixels: a limit below that of `limits`.  Raises ApiError."""
    most = min(limits.pixels, pixels or limits.pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # our own limit follows
            with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                width, height = picture.size
                is_jpeg = picture.format in ("JPEG", "MPO")
    except PIL.Image.DecompressionBombError as error:
        raise _too_many_pixels(param, most) from error
    except Exception as error:  # hostile bytes: Pillow's readers raise whatever they stumble upon
        message = f"{param}: is no photo that can be read; send {', '.join(FORMATS)}"
        raise ApiError(400, message, code="invalid_image", param=param) from error
    if width * height > most:
        raise _too_many_pixels(param, most, f"{width}×{height}")
    if is_jpeg and data.count(_SCAN_MARKER) > SCANS:
        raise ApiError(400, f"{param}: a JPEG of more than {SCANS} scans", code="invalid_image", param=param)
    return width, height


def _too_many_pixels(param: str, most: int, size: str = "far") -> ApiError:
    message = f"{param}: {size} pixels, above the limit of {most / 1e6:g} megapixels: make the photo smaller"
    return ApiError(413, message.replace("far pixels,", "far"), code="image_too_large", param=param)


def unreadable(error: Exception, param: str) -> ApiError:
    """For a photo whose header is right and whose content is not."""
    return ApiError(400, f"{param}: the photo is cut off or damaged", code="invalid_image", param=param)
