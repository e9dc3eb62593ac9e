"""Classes and segments of a photo's pixels, as image files store them, and those of the pixels of a view.

A label map has one value for each pixel, grey or an index of a palette, never a colour: converted to RGB, a palette is lost.
A panoptic segmentation has an id for each pixel in its colour: red + 256 · green + 256² · blue (cocodataset.org/#format-data).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vlp.data.images import open_image
from vlp.data.issues import DataError
from vlp.data.view import VOID_CLASS, View
from vlp.structures import Sample, Segment, Segments, require

PhotoSize = tuple[int | float, int | float]  # width and height
_GREY = ("L", "P", "1", "I;16", "I")


def read_segment_ids(path: Path, size: PhotoSize | None = None) -> Int[np.ndarray, "h w"]:
    """The id of each pixel's segment, of a panoptic PNG.  size: the photo's, to be checked.

    Raises DataError if the file has another size or is not RGB, ImageError if it cannot be read."""
    picture = open_image(path)
    if picture.mode != "RGB":
        message = f"{path}: the mode is {picture.mode}, and segment ids need an RGB image; convert or replace the file"
        raise DataError("segmentation without colours", message)
    _check_size(path, picture, size)
    return np.asarray(picture).astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], dtype=np.int32)


def read_label_map(path: Path, size: PhotoSize | None = None) -> UInt8[np.ndarray, "h w"]:
    """The value of each pixel of a label map.  Raises as `read_segment_ids`, and DataError for colours and values above 255."""
    picture = open_image(path)
    if picture.mode not in _GREY:
        message = (
            f"{path}: the mode is {picture.mode}, and a label map has one value for each pixel (grey or a palette); "
            "use the files of labels, not those of colours"
        )
        raise DataError("label map of colours", message)
    _check_size(path, picture, size)
    values = np.asarray(picture)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 255:
        raise DataError("label above 255", f"{path}: the value {int(values.max())} is no class; at most 255 are read")
    return values.astype(np.uint8)


def _check_size(path: Path, picture: PIL.Image.Image, size: PhotoSize | None) -> None:
    if size is not None and picture.size != tuple(size):
        sizes = f"{picture.width} × {picture.height} pixels, where the photo has {size[0]:g} × {size[1]:g}"
        raise DataError("segmentation of another size", f"{path}: {sizes}")


def read_class_map(sample: Sample, size: PhotoSize | None = None) -> UInt8[np.ndarray, "h w"]:
    """The class of every pixel of the photo; VOID_CLASS where there is none.  size: the photo's, to be checked."""
    if sample.label_map is not None:
        return np.frombuffer(sample.label_classes, dtype=np.uint8)[read_label_map(sample.label_map, size)]
    return classes_of_segments(read_segment_ids(require(sample.panoptic), size), sample.segments)


def classes_of_segments(ids: Int[np.ndarray, "h w"], segments: Sequence[Segment]) -> UInt8[np.ndarray, "h w"]:
    """The class of each pixel's segment; VOID_CLASS where it is none of these."""
    labels = [segment.label for segment in segments]
    return np.array([*labels, VOID_CLASS], dtype=np.uint8)[_positions(ids, segments)]  # of no segment it is -1


def _positions(ids: Int[np.ndarray, "h w"], segments: Sequence[Segment]) -> Int[np.ndarray, "h w"]:
    """For each pixel the position of its segment among these; -1 = none."""
    numbers, inverse = np.unique(ids, return_inverse=True)
    position = {segment.id: index for index, segment in enumerate(segments)}
    return np.array([position.get(number, -1) for number in numbers.tolist()])[inverse].reshape(ids.shape)


def view_labels(sample: Sample, view: View, size: PhotoSize) -> tuple[Int[Tensor, "h w"], Segments | None]:
    """The class of each of a view's pixels, and of a panoptic segmentation its visible segments.  size: the photo's."""
    if sample.label_map is not None:
        classes = torch.from_numpy(read_class_map(sample, size).astype(np.int64))
        return view.resample_classes(classes), None
    positions = _positions(read_segment_ids(require(sample.panoptic), size), sample.segments)
    # what the view resamples as classes are positions above VOID_CLASS, which is none
    above = torch.from_numpy(positions.astype(np.int64)) + VOID_CLASS + 1
    position = view.resample_classes(above) - (VOID_CLASS + 1)
    labels = torch.tensor([*(segment.label for segment in sample.segments), VOID_CLASS], dtype=torch.int64)
    counted = [index for index in position.unique().tolist() if index >= 0 and not sample.segments[index].crowd]
    renumbered = torch.full((len(labels),), -1)
    renumbered[counted] = torch.arange(len(counted))
    return labels[position], Segments(label=labels[counted], index=renumbered[position])
