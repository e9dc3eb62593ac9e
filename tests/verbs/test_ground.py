"""`Predictor.ground`: by the checkpoint's box head and by the heat of matching, in pixels of the photo."""

from __future__ import annotations

from typing import Any

import PIL.Image
import pytest
import torch
from torch import nn

from tests.tasks.test_grounding import Colour, colour_model
from vlp.data.transforms import EvalTransform
from vlp.predictor import Predictor
from vlp.structures import Text
from vlp.tasks.grounding import Grounding
from vlp.tokenizers.base import Tokenizer


class Colours(Tokenizer):
    """red, green and blue are the tokens 0, 1 and 2."""

    def __call__(self, texts: list[str], *, kind: str = "caption") -> Text:
        ids = torch.tensor([[("red", "green", "blue").index(text)] for text in texts])
        return Text(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))


def _predictor(**objectives: nn.Module) -> Predictor:
    return Predictor(
        model=colour_model(), objectives=nn.ModuleDict(objectives).eval(), tokenizer=Colours.__new__(Colours),
        transform=EvalTransform(image_size=16, mode="squash", interpolation="nearest"), batch_size=2,
    )  # fmt: skip


def _photo(orientation: int = 1) -> PIL.Image.Image:
    """Upright it is 64 pixels wide and 16 high, red at the left quarter and blue at the right half."""
    photo = PIL.Image.new("RGB", (64, 16))
    photo.paste((200, 0, 0), (0, 0, 16, 16))
    photo.paste((0, 0, 90), (32, 0, 64, 16))
    if orientation == 6:  # as stored it lies on its side
        photo = photo.transpose(PIL.Image.Transpose.ROTATE_90)
        photo.getexif()[0x0112] = 6
    return photo


class Matching(Colour):
    def logits(self, model: Any, text: Any, memory: Any) -> torch.Tensor:
        return torch.tensor([[0.0, 2.0]]).expand(len(text.states), 2)


@pytest.mark.parametrize("orientation", [1, 6])
def test_by_the_heat_of_matching(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = _predictor(itm=Matching())
    monkeypatch.setattr(type(predictor.model), "project_memory", lambda self, image: image)
    found = predictor.ground([_photo(orientation)] * 3, ["red", "blue", "red"], heat=True)
    assert [row["box"] for row in found] == [[0, 0, 16, 16], [32, 0, 64, 16], [0, 0, 16, 16]]
    assert found[0]["score"] == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert found[1]["heat"].shape == (4, 4)
    assert "heat" not in predictor.ground([_photo()], ["red"])[0]


def test_a_checkpoint_without_any_way_and_a_transform_that_does_not_say_what_it_shows() -> None:
    with pytest.raises(ValueError, match="its heads are: none"):
        _predictor().ground([_photo()], ["red"])
    predictor = _predictor(itm=Matching())
    predictor.transform = lambda image: torch.zeros(3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"vlp\.data\.transforms"):
        predictor.ground([_photo()], ["red"])
    with pytest.raises(ValueError, match="needs the head of itc"):
        _predictor(grounding=Grounding(mode="map", score="itc")).ground([_photo()], ["red"])
    with pytest.raises(ValueError, match="give one for each image"):
        _predictor(itm=Matching()).ground([_photo()], ["red", "blue"])
