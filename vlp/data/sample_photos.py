"""The photo of a sample."""

from __future__ import annotations

from vlp.data.images import Photo, open_photo
from vlp.structures import Sample


def open_sample_photo(sample: Sample) -> Photo:
    """Without its border, and only the part that the sample describes.  Raises ImageError."""
    photo = open_photo(sample.image, as_stored=sample.as_stored)
    if sample.border:
        width, height = photo.size
        photo = photo.crop_to((sample.border, sample.border, width - sample.border, height - sample.border))
    return photo if sample.crop is None else photo.crop_to(sample.crop)
