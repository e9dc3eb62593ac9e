"""Views that reach beyond the photo: pixels as Pillow resizes them, padding, and boxes, masks, classes and frames that follow."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms.v2.functional import pil_to_tensor

from tests.data.test_sample_boxes import BOX, batch_of, mask_of, photo, to_photo
from tests.data.test_view import photo as smooth_photo
from vlp.data.example_dataset import ExampleDataset
from vlp.data.images import open_photo
from vlp.data.padded_transforms import Letterbox, ScaleJitter, Shift
from vlp.data.transforms import Transform
from vlp.data.view import VOID_CLASS, View, render_padded
from vlp.structures import Sample

FILL = (1, 2, 3)


@pytest.mark.parametrize("where", ["top_left", "centre"])
@pytest.mark.parametrize("size", [(200, 120), (120, 200), (50, 200), (31, 7), (700, 1)])
def test_a_letterboxed_photo_is_pillows_resized_one_in_its_frame(
    tmp_path: Path, size: tuple[int, int], where: str
) -> None:
    path = smooth_photo(tmp_path / "a.png", size)
    transform = Letterbox(image_size=[64, 96], where=where, fill=FILL)
    pixels, view = transform.render(open_photo(path), 0)
    scale = min(64 / size[1], 96 / size[0])
    height, width = (max(1, round(side * scale)) for side in (size[1], size[0]))
    top, left = ((64 - height) // 2, (96 - width) // 2) if where == "centre" else (0, 0)
    expected = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].repeat(1, 64, 96)
    resized = PIL.Image.open(path).resize((width, height), PIL.Image.Resampling.BICUBIC)
    expected[:, top : top + height, left : left + width] = pil_to_tensor(resized)
    assert torch.equal(pixels, expected)
    # the photo's corners are where the frame says
    x, y, across, down = view.frame
    assert ((0 - x) / across * 96, (0 - y) / down * 64) == pytest.approx((left, top), abs=1e-6)
    assert ((size[0] - x) / across * 96, (size[1] - y) / down * 64) == pytest.approx((left + width, top + height))


@pytest.mark.parametrize("where", ["top_left", "centre", "random"])
def test_jitter_scales_evenly_keeps_the_aspect_ratio_and_pads_where_it_says(where: str) -> None:
    transform = ScaleJitter(image_size=100, scale=(0.1, 2.0), where=where)
    scales, places, mirrored = [], set(), Counter[bool]()
    for seed in range(400):
        view = transform.choose_view(300, 200, random.Random(seed))
        across, down = 100 * 300 / view.width, 100 * 200 / view.height  # pixels of the whole photo in the image
        assert across == pytest.approx(round(across))
        assert abs(across / 1.5 - down) <= 0.85
        scales.append(across / 100)
        mirrored[view.mirrored] += 1
        if across < 99:
            places.add(round(-view.left / view.width * 100))
            assert -view.left >= -1e-9, "a smaller photo is whole"
        else:
            assert view.left >= -1e-9
            assert view.left + view.width <= 300 + 1e-6, "a larger photo leaves nothing to fill"
    assert min(scales) == pytest.approx(0.1, abs=0.02)
    assert max(scales) == pytest.approx(2.0, abs=0.03)
    assert np.mean(scales) == pytest.approx(1.05, abs=0.08)
    assert 150 < mirrored[True] < 250
    assert places == {0} if where == "top_left" else len(places) > 15


def test_shifts_are_whole_pixels_and_leave_the_others_as_they_are(tmp_path: Path) -> None:
    path = smooth_photo(tmp_path / "a.png", (64, 64))
    original = pil_to_tensor(PIL.Image.open(path))
    found = set()
    for seed in range(60):
        pixels, view = Shift(image_size=64, shift=4, fill=FILL).render(open_photo(path), seed)
        x, y = int(view.left), int(view.top)
        assert (view.left, view.top, view.width, view.height, view.mirrored) == (x, y, 64, 64, False)
        found |= {x, y}
        expected = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].repeat(1, 64, 64)
        expected[:, max(-y, 0) : 64 - max(y, 0), max(-x, 0) : 64 - max(x, 0)] = original[
            :, max(y, 0) : 64 + min(y, 0), max(x, 0) : 64 + min(x, 0)
        ]
        assert torch.equal(pixels, expected)
    assert found == set(range(-4, 5))


TRANSFORMS: dict[str, Transform] = {
    "letterbox": Letterbox(image_size=[96, 64]),
    "centred letterbox": Letterbox(image_size=64, where="centre"),
    "jitter": ScaleJitter(image_size=[80, 64], scale=(0.4, 1.2), where="random"),
    "shift": Shift(image_size=64, shift=6),
}


@pytest.mark.parametrize("size", [(200, 120), (200, 50), (50, 200)])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_boxes_masks_and_classes_go_where_the_pixels_go(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    """A red rectangle on grey, also on photos of 1:4; what is beyond the photo has no class and no mask."""
    box = (size[0] * 0.3, size[1] * 0.2, size[0] * 0.5, size[1] * 0.6)
    box = tuple(float(round(edge)) for edge in box)
    path = photo(tmp_path / "a.png", size, box)
    sample = Sample(id=0, sample=0, image=path, boxes=(box,), box_labels=(1,), box_masks=(mask_of(box, size),))
    examples = ExampleDataset([sample], name="toy", transform=TRANSFORMS[name], training=False)
    shown = 0
    for epoch in range(12):
        example = examples[epoch, 0]
        assert example.boxes is not None
        assert example.frame is not None
        pixels = example.pixels.int()
        red = (pixels[0] > 190) & (pixels[1] < 80)
        if not len(example.boxes.label):
            assert red.sum() <= red.numel() * 0.01
            continue
        assert example.boxes.mask is not None
        mask = example.boxes.mask[0]
        around = torch.nn.functional.max_pool2d(mask[None].float(), 3, 1, 1)[0] > 0
        assert not (red & ~around).any()
        within = -torch.nn.functional.max_pool2d(-mask[None].float(), 3, 1, 1)[0] > 0
        assert not (within & ~red).any()
        shown += int(within.sum())
        view_boxes = to_photo(example.boxes, torch.tensor(example.frame))
        if float(example.boxes.xyxy.min()) > 0 and float(example.boxes.xyxy.max()) < 1:  # not cut
            torch.testing.assert_close(view_boxes, torch.tensor([box]), atol=2e-3, rtol=0)
        assert bool((view_boxes[:, 0] >= box[0] - 2e-3).all() & (view_boxes[:, 3] <= box[3] + 2e-3).all())
    assert shown > 100


def test_beyond_the_photo_there_is_no_class_and_no_mask() -> None:
    view = View(left=-2, top=-1, width=6, height=4, size=(4, 6))
    classes = view.resample_classes(torch.arange(6).reshape(2, 3))
    void = VOID_CLASS
    expected = torch.tensor([[void] * 6, [void, void, 0, 1, 2, void], [void, void, 3, 4, 5, void], [void] * 6])
    assert torch.equal(classes, expected)
    masks = view.resample_masks(torch.ones(1, 2, 3, dtype=torch.bool))
    assert torch.equal(masks[0], expected != void)
    mirrored = View(left=-2, top=-1, width=6, height=4, size=(4, 6), mirrored=True)
    assert torch.equal(mirrored.resample_classes(torch.arange(6).reshape(2, 3)), expected.flip(1))


def test_views_without_any_of_the_photo_are_filled(tmp_path: Path) -> None:
    path = smooth_photo(tmp_path / "a.png", (20, 10))
    for left, top in ((25, 0), (-30, 0), (0, 12)):
        view = View(left=left, top=top, width=8, height=8, size=(4, 4))
        assert torch.equal(
            render_padded(open_photo(path), view, fill=FILL).unique(), torch.tensor(FILL, dtype=torch.uint8)
        )


@pytest.mark.parametrize("options", [{}, {"quality": 90}])
def test_jitter_shows_what_pillow_shows(tmp_path: Path, options: dict[str, Any]) -> None:
    """Reduced JPEGs differ by about a level on average, as for other transforms."""
    path = smooth_photo(tmp_path / ("a.jpg" if options else "a.png"), (640, 480), **options)
    transform = ScaleJitter(image_size=96, where="centre", fill=FILL)
    for seed in range(8):
        pixels, view = transform.render(open_photo(path), seed)
        transform.choose_view = lambda *_, chosen=view: chosen  # type: ignore[method-assign]
        plain = transform(PIL.Image.open(path))
        del transform.choose_view
        assert (pixels.float() - plain.float()).abs().mean() < (2.0 if options else 0.05)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turned_photos_without_annotations_of_the_stored_photo_are_framed_upright(
    tmp_path: Path, orientation: int
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = photo(tmp_path / "a.jpg", quality=95, exif=exif)
    upright = (120, 200) if orientation >= 5 else (200, 120)
    turned = {1: BOX, 3: (100, 50, 140, 90), 6: (50, 60, 90, 100), 8: (30, 100, 70, 140)}[orientation]
    turned = tuple(map(float, turned))
    for transform in (
        Letterbox(image_size=64),
        Shift(image_size=64, shift=4),
        ScaleJitter(image_size=64, scale=(0.8, 0.9)),
    ):
        sample = Sample(
            id=0, sample=0, image=path, boxes=(turned,), box_labels=(0,), box_masks=(mask_of(turned, upright),)
        )
        batch = batch_of([sample], tmp_path, transform)
        assert batch.boxes is not None
        assert batch.image is not None
        assert batch.frame is not None
        red = (batch.image.pixels[0, 0] > 170) & (batch.image.pixels[0, 1] < 90)
        assert batch.boxes[0].mask is not None
        assert (batch.boxes[0].mask[0] ^ red).float().mean() < 0.03
        torch.testing.assert_close(to_photo(batch.boxes[0], batch.frame[0]), torch.tensor([turned]), atol=1e-3, rtol=0)


def test_wrong_settings_are_named() -> None:
    for make, words in (
        (lambda: Letterbox(image_size=8, where="left"), "where 'left' .* choose top_left or centre"),
        (lambda: Letterbox(image_size=8, interpolation="cubic"), "interpolation 'cubic'"),
        (lambda: ScaleJitter(image_size=8, scale=(2.0, 1.0)), r"scale=\[2.0, 1.0\]"),
        (lambda: Letterbox(image_size=8, fill=(0, 0, 256)), r"fill=\[0, 0, 256\]: give red, green and blue"),
        (lambda: Shift(image_size=8, shift=8), "shift=8 of Shift"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
