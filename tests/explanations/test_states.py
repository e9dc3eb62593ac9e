"""Heat of a score: its closed form for a linear score, and that matching's lands where the thing is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.towers import toy_batch, toy_model
from vlp.explanations.states import heat_of_states
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.itm import ITM
from vlp.objectives.siglip import SigLIP
from vlp.structures import Text, Tokens

STATES = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [3.0, -1.0], [0.0, 1.0], [-2.0, 0.5], [1.0, 1.0], [4.0, 0.0]]])
IMAGE = Tokens(states=STATES, pooled=STATES[:, 0], grid=(2, 3))  # a class token, then two rows of three cells
TEXT = Text(ids=torch.tensor([[1, 2]]), mask=torch.ones(1, 2, dtype=torch.bool))


def _linear(model: VisionLanguageModel, image: Tokens, text: Text) -> Tensor:
    weight = torch.tensor([1.0, -2.0])
    return (image.states * weight).sum((1, 2)) * text.mask.sum(1)


def test_of_a_linear_score_it_is_what_each_cell_adds() -> None:
    heat = heat_of_states(_linear, toy_model(), IMAGE, TEXT, rectified=False)
    assert heat.values.tolist() == [[[-6.0, 10.0, -4.0], [-6.0, -2.0, 8.0]]]
    assert heat_of_states(_linear, toy_model(), IMAGE, TEXT).values.tolist() == [[[0.0, 10.0, 0.0], [0.0, 0.0, 8.0]]]


def _matching() -> tuple[ITM, VisionLanguageModel, Tokens, Text]:
    model, batch = toy_model(fused=True).double().eval(), toy_batch(slice(3))
    torch.manual_seed(0)
    states = torch.randn(3, 7, 8, dtype=torch.float64)
    return ITM(width=4).double().eval(), model, Tokens(states=states, pooled=states[:, 0], grid=(2, 3)), batch.caption


def test_rows_do_not_depend_on_each_other_and_the_gradient_is_that_of_the_score() -> None:
    objective, model, image, text = _matching()
    heat = heat_of_states(objective.score, model, image, text, rectified=False).values
    one = heat_of_states(objective.score, model, image.select([1]), text.select([1]), rectified=False).values
    torch.testing.assert_close(one, heat[1:2], rtol=0, atol=1e-12)

    def at(factor: Tensor) -> Tensor:  # cell (1, 0) of each image scaled: the derivative at 1 is its heat
        states = image.states.clone()
        states[:, 4] = states[:, 4] * factor
        return objective.score(model, Tokens(states=states, pooled=image.pooled, grid=image.grid), text)

    step = torch.tensor(1e-5, dtype=torch.float64)
    torch.testing.assert_close(heat[:, 1, 0], (at(1 + step) - at(1 - step)) / (2 * step), rtol=1e-6, atol=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_works_where_gradients_are_off() -> None:
    objective, model, image, text = _matching()
    expected = heat_of_states(objective.score, model, image, text).values
    with torch.inference_mode():
        image, text = image.map(torch.clone), text.map(torch.clone)
        found = heat_of_states(objective.score, model, image, text).values
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not found.requires_grad


def test_states_that_the_score_does_not_read_and_images_without_a_raster_are_refused() -> None:
    objective, model, image, text = _matching()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="does not depend on the states"):
        heat_of_states(SigLIP().score, model, image, text)
    with pytest.raises(ValueError, match="one image at a time"):
        heat_of_states(objective.score, model, Tokens(states=image.states, pooled=image.pooled), text)
