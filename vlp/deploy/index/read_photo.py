"""From the bytes of a file to the pixels that the model sees, with every problem of the file as a sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlp.data.images import ImageError, decode, parse_photo
from vlp.deploy.index.engine_surface import EmbeddingEngine
from vlp.deploy.index.photo_files import HEAD_BYTES, date_taken, why_no_photo
from vlp.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReadPicture:
    """digest: of the file's bytes.  taken: EXIF's date and time.  pixels: uint8 [3 h w]; None where it is known already, or where
    error says why it has none.  unknown: the error is none that a photo is expected to have."""

    digest: bytes | None = None
    taken: str | None = None
    pixels: np.ndarray | None = None
    error: str | None = None
    unknown: Exception | None = None


def read_picture(
    engine: EmbeddingEngine, path: str, data: bytes, *, is_known: Callable[[bytes], bool] | None = None
) -> ReadPicture:
    """is_known: of a digest, whether its pixels are not needed.

    The engine applies the artifact's rule of decoding JPEGs; other formats have none, and are decoded once, here.
    """
    reason = why_no_photo(path, data[:HEAD_BYTES])
    if reason is not None:
        return ReadPicture(error=reason)
    try:
        photo = parse_photo(data, path)
        digest, taken = hashlib.blake2b(data, digest_size=20).digest(), date_taken(photo.image)
        if is_known is not None and is_known(digest):
            return ReadPicture(digest=digest, taken=taken)
        picture = data if photo.format == "JPEG" else decode(photo)
        return ReadPicture(digest=digest, taken=taken, pixels=engine.load_pixels([picture])[0])
    except ImageError as error:
        return ReadPicture(error=error.reason)
    except UserError as error:
        return ReadPicture(error=str(error), unknown=error)
    except Exception as error:
        return ReadPicture(error=f"damaged ({type(error).__name__})", unknown=error)
