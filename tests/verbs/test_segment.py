from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from tests.tasks.test_segmentation import TOKENIZER, model
from vlp.data.padded_transforms import Letterbox
from vlp.data.transforms import EvalTransform, Transform
from vlp.models.dense.segments import QueriedSegments
from vlp.models.vlm import VisionLanguageModel
from vlp.predictor import Predictor
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError
from vlp.tasks.panoptic import Panoptic
from vlp.tasks.segmentation import Segmentation

SIDE = 64


class _Pixels(nn.Module):
    """A tower whose states are the pixels themselves, and whose segments are what is red and what is not."""

    width = 3

    def __init__(self) -> None:
        super().__init__()
        self.image_size, self.scale = SIDE, nn.Parameter(torch.ones(()))

    def forward(self, image: Image) -> Tokens:
        states = self.scale * image.pixels.float().flatten(2).transpose(1, 2)
        return Tokens(states=states, pooled=states[:, 0], grid=(image.pixels.shape[2], image.pixels.shape[3]))

    def query(self, image: Image) -> list[QueriedSegments]:
        red = image.pixels[:, 0].float() - image.pixels[:, 1:].float().amax(1) - 128
        classes = 20 * torch.eye(2, 3).expand(len(red), 2, 3)
        return [QueriedSegments(classes=classes, masks=torch.stack([-red, red], 1))]


class _Red(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.edge = nn.Parameter(torch.tensor(128.0))

    def forward(self, tokens: Tokens, texts: None = None) -> torch.Tensor:
        assert tokens.grid is not None
        red = (tokens.states[..., 0] - tokens.states[..., 1:].amax(-1)).reshape(-1, *tokens.grid)
        return torch.stack([self.edge - red, red - self.edge], 1)


def photo(width: int, height: int) -> PIL.Image.Image:
    """Grey with a red rectangle at the right."""
    pixels = np.full((height, width, 3), 100, dtype=np.uint8)
    pixels[:, width * 3 // 4 :] = (255, 0, 0)
    return PIL.Image.fromarray(pixels)


def predictor(kind: str, transform: Transform) -> Predictor:
    names = ("rest", "red")
    task: nn.Module = Segmentation(segment_names=names, states_width=3, channels=2)
    if kind == "panoptic":
        task = Panoptic(segment_names=names, states_width=3, head="tower")
    else:
        task.segmenter = _Red()
    return Predictor(
        model=VisionLanguageModel(vision=_Pixels()).eval(),
        objectives=nn.ModuleDict({kind: task}).eval(),
        transform=transform,
    )


@pytest.mark.parametrize("kind", ["segmentation", "panoptic"])
@pytest.mark.parametrize("size", [(160, 40), (40, 160), (64, 64)])
@pytest.mark.parametrize(
    "transform",
    [EvalTransform(image_size=SIDE, mode="squash"), Letterbox(image_size=SIDE)],
    ids=["squash", "letterbox"],
)
def test_classes_land_in_the_photos_pixels(kind: str, size: tuple[int, int], transform: Transform) -> None:
    (found,) = predictor(kind, transform).segment([photo(*size)])
    red = np.asarray(photo(*size))[..., 0] == 255
    assert found["names"] == ("rest", "red")
    assert found["classes"].shape == size[::-1]
    assert float(((found["classes"] == 1) == red).mean()) > 0.95
    if kind == "panoptic":
        assert {entry["label"] for entry in found["segments"]} == {"rest", "red"}
        assert set(np.unique(found["ids"]).tolist()) - {0} == {entry["id"] for entry in found["segments"]}


def test_a_turned_photo_is_segmented_upright(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    photo(160, 40).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    (found,) = predictor("segmentation", EvalTransform(image_size=SIDE, mode="squash")).segment(
        [tmp_path / "turned.jpg"]
    )
    assert found["classes"].shape == (160, 40)
    assert float((found["classes"][-38:] == 1).mean()) > 0.95
    assert float((found["classes"][:110] == 0).mean()) > 0.95


def test_labels_are_for_heads_that_score_texts() -> None:
    made = predictor("segmentation", EvalTransform(image_size=SIDE))
    with pytest.raises(UserError, match="knows rest, red and no other names"):
        made.segment([photo(20, 20)], ["sky"])
    with pytest.raises(UserError, match="no head for panoptic"):
        made.segment([photo(20, 20)], task="panoptic")
    texts = Segmentation(
        segment_names=("red circle", "two"), states_width=16, names="texts", embed_width=10, channels=4, up=1
    )
    by_text = Predictor(
        model=model().float().eval(), objectives=nn.ModuleDict({"segmentation": texts}).eval(),
        transform=EvalTransform(image_size=16, mode="squash"), tokenizer=TOKENIZER,
    )  # fmt: skip
    (found,) = by_text.segment([photo(30, 20)], ["green", "blue square", "one"])
    assert found["names"] == ("green", "blue square", "one")
    assert found["classes"].shape == (20, 30)
    assert set(np.unique(found["classes"]).tolist()) <= {0, 1, 2}
    with pytest.raises(UserError, match="each once"):
        by_text.segment([photo(30, 20)], ["green", "green"])
