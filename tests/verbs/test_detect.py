from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from vlp.data.padded_transforms import Letterbox
from vlp.data.transforms import EvalTransform, Transform
from vlp.models.dense.boxes import to_centres
from vlp.models.dense.detector import PlaceDetector, Proposals
from vlp.models.vlm import VisionLanguageModel
from vlp.predictor import Predictor
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError
from vlp.tasks.detection import Detection

SIDE = 64
RED = (40, 10, 100, 30)  # left, top, right, bottom in a photo of 160 × 40 pixels


class _Pixels(nn.Module):
    """A tower whose states are the pixels themselves."""

    width = 3

    def __init__(self) -> None:
        super().__init__()
        self.image_size = SIDE
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image: Image) -> Tokens:
        states = self.scale * image.pixels.float().flatten(2).transpose(1, 2)
        return Tokens(states=states, pooled=states[:, 0], grid=(image.pixels.shape[2], image.pixels.shape[3]))


class _Red(nn.Module):
    """A detector whose first place finds what is red: its box, and as a mask the redness of each pixel."""

    pixels = None

    def forward(self, tokens: Tokens, queries: Tensor | None = None) -> Proposals:
        assert tokens.grid is not None
        rows, columns = tokens.grid
        red = (tokens.states[..., 0] - tokens.states[..., 1:].amax(-1)).reshape(-1, rows, columns)
        boxes = torch.zeros(len(red), 2, 4)
        for box, one in zip(boxes, red, strict=True):
            y, x = (one > 128).nonzero().unbind(1)
            box[0] = torch.tensor([x.min() / columns, y.min() / rows, (x.max() + 1) / columns, (y.max() + 1) / rows])
            box[1] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        logits = torch.tensor([[3.0, -3.0], [-3.0, -1.0]]).expand(len(red), 2, 2)
        return Proposals(
            boxes=to_centres(boxes),
            logits=logits,
            grid=(1, 2),
            pixels=red[:, None] - 128,
            embeddings=torch.ones(len(red), 2, 1),
        )


def _predictor(transform: Transform) -> Predictor:
    task = Detection(head=functools.partial(PlaceDetector), states_width=3, class_names=("red", "blue"), threshold=0.5)
    task.detector = _Red()  # type: ignore[assignment]
    model = VisionLanguageModel(vision=_Pixels()).eval()
    return Predictor(
        model=model, objectives=nn.ModuleDict({"detection": task.eval()}), transform=transform, batch_size=2
    )


def _photo() -> PIL.Image.Image:
    pixels = np.full((40, 160, 3), 90, dtype=np.uint8)
    left, top, right, bottom = RED
    pixels[top:bottom, left:right] = (255, 0, 0)
    return PIL.Image.fromarray(pixels)


@pytest.mark.parametrize(
    "transform",
    [
        Letterbox(image_size=SIDE),
        Letterbox(image_size=SIDE, where="centre"),
        EvalTransform(image_size=SIDE, mode="squash"),
    ],
    ids=["letterbox", "centred", "squashed"],
)
def test_boxes_and_masks_of_an_oblong_photo(transform: Transform, tmp_path: Path) -> None:
    """As a picture, as a file, and as a file whose camera was turned: the upright photo counts."""
    photo, turned = _photo(), _photo().transpose(PIL.Image.Transpose.ROTATE_90)
    photo.save(tmp_path / "a.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    turned.save(tmp_path / "b.jpg", exif=exif, quality=95)
    found = _predictor(transform).detect([photo, tmp_path / "a.png", str(tmp_path / "b.jpg")])
    for things in found:
        (thing,) = things
        assert thing["label"] == "red"
        assert thing["score"] == pytest.approx(1 / (1 + np.exp(-3)))
        np.testing.assert_allclose(thing["box"], RED, atol=2.5)  # a pixel of the small image is 2.5 of the photo's
        left, top, right, bottom = RED
        truth = np.zeros((40, 160), dtype=bool)
        truth[top:bottom, left:right] = True
        assert thing["mask"].shape == truth.shape
        assert (thing["mask"] & truth).sum() > 0.85 * (thing["mask"] | truth).sum()


def test_what_is_probable_enough_comes_first_to_last() -> None:
    predictor = _predictor(Letterbox(image_size=SIDE))
    assert [thing["label"] for thing in predictor.detect([_photo()], threshold=0.2)[0]] == ["red", "blue"]
    assert predictor.detect([_photo()], threshold=0.99) == [[]]


@pytest.mark.parametrize("threshold", [2.0, -1.0, float("nan")])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    photo = PIL.Image.new("RGB", (SIDE, SIDE))
    with pytest.raises(UserError, match="give a probability from 0 to 1"):
        _predictor(Letterbox(image_size=SIDE)).detect([photo], threshold=threshold)


def test_what_cannot_be_detected_is_refused() -> None:
    predictor = _predictor(Letterbox(image_size=SIDE))
    with pytest.raises(UserError, match="this head knows red, blue and no other names"):
        predictor.detect([_photo()], ["green"])
    predictor.transform = lambda image: torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"need a predictor\.transform of vlp"):
        predictor.detect([_photo()])
    predictor.objectives = nn.ModuleDict()
    with pytest.raises(UserError, match="no head for detection; its heads are: none"):
        predictor.detect([_photo()])
