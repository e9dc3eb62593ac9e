"""Frames, boxes, crowds and masks of batches: a prediction in [0, 1] of the image lands in the photo's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from tests.data_fixtures import Letters
from vlp.data.datamodule import DataModule
from vlp.data.example_dataset import ExampleDataset
from vlp.data.sample_boxes import project_sample_boxes
from vlp.data.transforms import EvalTransform, MinMaxTransform, TrainTransform, Transform
from vlp.data.view import View
from vlp.structures import Batch, Boxes, Sample

BOX, OTHER = (60.0, 30.0, 100.0, 70.0), (150.0, 80.0, 190.0, 110.0)


class Listed(DataModule):
    """The same samples in each split that asks for them."""

    def __init__(self, samples: Sequence[Sample], **loading: Any) -> None:
        super().__init__(**loading)
        self.listed = list(samples)
        self.class_names = ("thing", "other")

    def samples(self, split: str) -> list[Sample]:
        return self.listed if split == "test" else []


def photo(path: Path, size: tuple[int, int] = (200, 120), box: tuple[float, ...] = BOX, **options: Any) -> Path:
    """A red rectangle on grey."""
    image = PIL.Image.new("RGB", size, "grey")
    image.paste("red", tuple(map(int, box)))
    image.save(path, **options)
    return path


def mask_of(box: tuple[float, ...], size: tuple[int, int] = (200, 120)) -> dict[str, Any]:
    left, top, right, bottom = map(int, box)
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[top:bottom, left:right] = True
    edges = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False, append=False))
    flat = np.diff(np.concatenate([[0], edges, [mask.size]])) if len(edges) else np.array([mask.size])
    return {"counts": flat.tolist(), "size": [size[1], size[0]]}


def batch_of(samples: Sequence[Sample], root: Path, transform: Transform, **loading: Any) -> Batch:
    data = Listed(
        samples,
        name="toy",
        root=root,
        transform={"train": transform, "eval": transform},
        tokenizer=Letters(),
        **loading,
    )
    data.setup("test")
    return next(iter(data.test_dataloader()))


def to_photo(boxes: Boxes, frame: torch.Tensor) -> torch.Tensor:
    """Left, top, right and bottom in the photo's pixels, as a task writes them."""
    left, top, width, height = frame.tolist()
    xs = left + boxes.xyxy[:, [0, 2]] * width
    ys = top + boxes.xyxy[:, [1, 3]] * height
    return torch.stack([xs.min(1).values, ys[:, 0], xs.max(1).values, ys[:, 1]], 1)


TRANSFORMS: dict[str, Transform] = {
    "crop, mirrored or not": TrainTransform(image_size=48, crop_scale=(0.95, 1.0), flip=True),
    "centre": EvalTransform(image_size=48),
    "squashed": EvalTransform(image_size=[48, 32], mode="squash"),
    "aspect kept": MinMaxTransform(image_size=48, multiple=16),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_boxes_of_the_image_are_written_in_the_pixels_of_the_photo(tmp_path: Path, name: str) -> None:
    path = photo(tmp_path / "a.png")
    examples = ExampleDataset(
        [Sample(id=0, sample=0, image=path, boxes=(BOX,), box_labels=(1,))],
        name="toy", transform=TRANSFORMS[name], training=False,
    )  # fmt: skip
    mirrored = set()
    for epoch in range(8):
        example = examples[epoch, 0]
        assert example.boxes is not None
        assert example.frame is not None
        mirrored.add(example.frame[2] < 0)
        back = to_photo(example.boxes, torch.tensor(example.frame))
        torch.testing.assert_close(back, torch.tensor([BOX]), atol=1e-3, rtol=0)
    assert mirrored == ({False, True} if "mirrored" in name else {False})


def test_every_batch_has_a_frame_also_without_boxes_and_a_plain_function_has_none(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    samples = [Sample(id=i, sample=i, image=path, captions=("a",)) for i in range(2)]
    batch = batch_of(samples, tmp_path, EvalTransform(image_size=24))
    assert batch.boxes is None
    torch.testing.assert_close(batch.frame, torch.tensor([[40.0, 0.0, 120.0, 120.0]] * 2))
    plain: Any = lambda image: torch.zeros(3, 4, 4, dtype=torch.uint8)  # noqa: E731
    assert batch_of(samples, tmp_path, plain).frame is None


def test_the_frame_of_a_region_is_in_the_whole_photo() -> None:
    view = View(left=3, top=2, width=10, height=5, size=(4, 4), mirrored=True)
    assert view.frame == (13.0, 2.0, -10.0, 5.0)


def test_a_region_is_framed_in_the_whole_photo(tmp_path: Path) -> None:
    sample = Sample(id=0, sample=0, image=photo(tmp_path / "a.png"), captions=("a",), crop=(50, 20, 110, 80))
    batch = batch_of([sample], tmp_path, EvalTransform(image_size=24))
    torch.testing.assert_close(batch.frame, torch.tensor([[50.0, 20.0, 60.0, 60.0]]))


@pytest.mark.parametrize("pixels", [1, 2 * 200 * 120, 1 << 22])
def test_masks_are_the_same_however_many_are_resampled_at_once(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlp.data.sample_boxes.MASK_PIXELS", pixels)
    boxes = tuple((10.0 * i, 6.0 * i, 10.0 * i + 50, 6.0 * i + 40) for i in range(5))
    sample = Sample(
        id=0, sample=0, image=Path("a.png"), boxes=boxes, box_labels=(0,) * 5, box_masks=tuple(map(mask_of, boxes))
    )
    view = View(left=0, top=0, width=200, height=120, size=(60, 100), mirrored=True)
    found = project_sample_boxes(sample, view, (200, 120), [], training=False)
    assert found.mask is not None
    for (left, top, right, bottom), mask in zip(boxes, found.mask, strict=True):
        expected = torch.zeros(60, 100, dtype=torch.bool)
        expected[int(top) // 2 : int(bottom) // 2, 100 - int(right) // 2 : 100 - int(left) // 2] = True
        assert torch.equal(mask, expected)


def test_crowds_and_masks_follow_their_boxes_and_pictures_without_things_have_none_of_them(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    outside = (0.0, 0.0, 20.0, 20.0)  # the centre crop does not show it
    full = Sample(
        id=0, sample=0, image=path, boxes=(outside, BOX, OTHER), box_labels=(1, 0, 1), box_crowds=(True, False, True),
        box_masks=(mask_of(outside), mask_of(BOX), mask_of(OTHER)),
    )  # fmt: skip
    empty = Sample(id=1, sample=1, image=path, boxes=())
    batch = batch_of([full, empty], tmp_path, EvalTransform(image_size=60))
    assert batch.boxes is not None
    first, second = batch.boxes
    assert first.label.tolist() == [0, 1]
    assert first.crowd is not None
    assert first.crowd.tolist() == [False, True]
    assert first.mask is not None
    assert batch.image is not None
    red = (batch.image.pixels[0, 0] > 200) & (batch.image.pixels[0, 1] < 60)
    assert (first.mask[0] ^ red).float().mean() < 0.02
    assert first.mask[0].sum() == 400  # 40 × 40 pixels at half the size
    assert first.mask[1].sum() == 75  # of 40 × 30 pixels, the ten columns that the crop shows, at half the size
    assert second.mask is not None
    assert second.mask.shape == (0, 60, 60)
    assert second.crowd is not None
    assert second.crowd.shape == (0,)


def test_masks_of_another_photo_are_a_fault_of_the_file(tmp_path: Path) -> None:
    masks = (mask_of((1, 1, 5, 5), (20, 10)),)
    sample = Sample(id=0, sample=0, image=photo(tmp_path / "a.png"), boxes=(BOX,), box_labels=(1,), box_masks=masks)
    with pytest.raises(ValueError, match=r"a\.png: a mask of size \[10, 20\] of a photo of \[120, 200\] pixels"):
        batch_of([sample], tmp_path, EvalTransform(image_size=24))


def test_boxes_of_captions_name_their_caption_among_those_chosen(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    one_each = Sample(id=0, sample=0, image=path, captions=("a", "b", "c"), boxes=(BOX, OTHER, (10, 10, 50, 50)))
    several = Sample(
        id=1, sample=1, image=path, captions=("a", "b"), boxes=(BOX, OTHER, (1, 1, 99, 90)), box_captions=(1, 0, 1)
    )
    squash = EvalTransform(image_size=24, mode="squash")
    batch = batch_of([one_each, several], tmp_path, squash)
    assert batch.boxes is not None
    assert [boxes.label.tolist() for boxes in batch.boxes] == [[0, 1, 2], [1, 0, 1]]
    for count in (1, 2):
        examples = ExampleDataset([one_each, several], name="toy", transform=squash, training=True, captions=count)
        seen = set()
        for epoch in range(12):
            for index, sample in enumerate((one_each, several)):
                example = examples[epoch, index]
                assert example.boxes is not None
                assert sample.boxes is not None
                owners = sample.box_captions or tuple(range(3))
                expected = [
                    (example.captions.index(sample.captions[owner]), box)
                    for owner, box in zip(owners, sample.boxes, strict=True)
                    if sample.captions[owner] in example.captions
                ]
                assert example.boxes.label.tolist() == [position for position, _ in expected]
                back = to_photo(example.boxes, torch.tensor(example.frame))
                torch.testing.assert_close(
                    back, torch.tensor([list(map(float, box)) for _, box in expected]).reshape(-1, 4), atol=1e-3, rtol=0
                )
                seen.add(example.captions)
        assert len(seen) > 2


def test_less_than_a_pixel_of_a_box_is_left_out_in_training_alone(tmp_path: Path) -> None:
    """A photo of 200 × 120 as 20 × 12: ten pixels are one."""
    boxes = ((0.0, 0.0, 9.0, 50.0), (0.0, 0.0, 50.0, 9.0), (0.0, 0.0, 10.5, 10.5))
    sample = Sample(
        id=0, sample=0, image=photo(tmp_path / "a.png"), boxes=boxes, box_labels=(0, 1, 1), box_crowds=(False,) * 3
    )
    for training, expected in ((True, [1]), (False, [0, 1, 1])):
        examples = ExampleDataset(
            [sample], name="toy", transform=EvalTransform(image_size=[12, 20], mode="squash"), training=training
        )
        found = examples[0, 0].boxes
        assert found is not None
        assert found.label.tolist() == expected
        assert found.crowd is not None
        assert len(found.crowd) == len(expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_of_the_stored_photo_ignore_its_orientation(tmp_path: Path, orientation: int) -> None:
    """COCO's boxes are of the photo as it is stored; with `as_stored`, image, boxes, masks and frame are so too."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = photo(tmp_path / "a.jpg", quality=95, exif=exif)
    sample = Sample(
        id=0, sample=0, image=path, boxes=(BOX,), box_labels=(0,), box_masks=(mask_of(BOX),), as_stored=True
    )
    for transform in (
        EvalTransform(image_size=60),
        MinMaxTransform(image_size=60, multiple=4),
        TrainTransform(image_size=60, crop_scale=(1.0, 1.0)),
    ):
        batch = batch_of([sample], tmp_path, transform)
        assert batch.boxes is not None
        assert batch.frame is not None
        assert batch.image is not None
        (boxes,) = batch.boxes
        torch.testing.assert_close(to_photo(boxes, batch.frame[0]), torch.tensor([BOX]), atol=1e-3, rtol=0)
        red = (batch.image.pixels[0, 0] > 180) & (batch.image.pixels[0, 1] < 80)
        assert boxes.mask is not None
        assert (boxes.mask[0] ^ red).float().mean() < 0.03


def test_classes_that_were_not_looked_for_are_named(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    known = Sample(id=0, sample=0, image=path, boxes=(), absent_categories=(3, 5), not_exhaustive=(7,))
    empty = Sample(id=1, sample=1, image=path, boxes=(), absent_categories=())
    batch = batch_of([known, empty], tmp_path, EvalTransform(image_size=12))
    assert batch.boxes is not None
    assert [boxes.absent.tolist() for boxes in batch.boxes if boxes.absent is not None] == [[3, 5], []]
    assert [boxes.not_exhaustive.tolist() for boxes in batch.boxes if boxes.not_exhaustive is not None] == [[7], []]
    plain = batch_of([Sample(id=0, sample=0, image=path, boxes=())], tmp_path, EvalTransform(image_size=12))
    assert plain.boxes is not None
    assert plain.boxes[0].absent is None
