"""Late interaction against its equations in plain loops, in pairs, all pairs and with padding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlp.models.fusion.late import LateFusion
from vlp.structures import Tokens


def tokens(rows: int, lengths: list[int], seed: int) -> Tokens:
    states = torch.randn(rows, max(lengths), 6, generator=torch.Generator().manual_seed(seed)).double()
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Tokens(states=states, pooled=states[:, 0], mask=mask)


TEXT, IMAGE = tokens(3, [4, 2, 5], 0), tokens(2, [3, 6], 1)


def fusion(**changes: object) -> LateFusion:
    torch.manual_seed(0)
    options = {"image_width": 6, "text_width": 6, "width": 4, "hidden_width": 5, "temperature": 0.1, "sharpness": 4.0}
    made = LateFusion(**options | changes).double()  # type: ignore[arg-type]
    for parameter in made.image_residual[-1].parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


def score(made: LateFusion, text: int, image: int) -> float:
    """SCAN's softmax in FILIP's mean, word by word."""
    parts = []
    places = made.image_input(IMAGE.states[image][IMAGE.mask[image]])
    places = F.normalize(places + made.image_residual(places), dim=1)
    for state in TEXT.states[text][TEXT.mask[text]]:
        word = made.text_input(state)
        word = F.normalize(word + made.text_residual(word), dim=0)
        cosine = torch.stack([word @ place for place in places])
        parts.append(float(((4.0 * cosine).softmax(0) * cosine).sum()))
    return 10 * sum(parts) / len(parts)


def test_pairs_equal_the_equations() -> None:
    made = fusion()
    expected = torch.tensor([[score(made, text, image) for image in range(2)] for text in range(3)]).double()
    memory = made.remember(IMAGE)
    torch.testing.assert_close(made.all_pairs(TEXT, memory), expected, atol=1e-6, rtol=0)
    for image in range(2):
        one = made.score(TEXT, memory.select(torch.tensor([image])))
        each = made.score(TEXT, memory.select(torch.tensor([image] * 3)))
        torch.testing.assert_close(one, expected[:, image], atol=1e-6, rtol=0)
        torch.testing.assert_close(each, expected[:, image], atol=1e-6, rtol=0)


def test_the_scale_is_bounded() -> None:
    assert float(fusion(temperature=1e-4, max_scale=50.0).scale()) == pytest.approx(50.0)
