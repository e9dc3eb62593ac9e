"""A value for each pixel, as a PNG in a data URI: classes and masks are small then, and every client reads them."""

from __future__ import annotations

import base64
import io

import numpy as np
import PIL.Image
from jaxtyping import Bool, Int


def map_uri(values: Int[np.ndarray, "h w"] | Bool[np.ndarray, "h w"]) -> str:
    """The PNG's grey values are the numbers themselves: 1 bit for masks, 8 bits up to 255, else 16.  Raises OverflowError above
    65,535."""
    if values.dtype == bool:
        picture = PIL.Image.fromarray(values)
    elif not values.size or (values.min() >= 0 and values.max() <= 255):
        picture = PIL.Image.fromarray(values.astype(np.uint8))
    elif values.min() < 0 or values.max() > 65_535:
        raise OverflowError(f"values from {values.min()} to {values.max()} do not fit 16 bits")
    else:
        picture = PIL.Image.fromarray(values.astype(np.uint16))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
