from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlp.models.dense.queries import QueryHead, sine_positions
from vlp.structures import Tokens
from vlp.system.errors import UserError


def tokens(rows: int = 2, columns: int = 3) -> Tokens:
    states = torch.randn(2, 1 + rows * columns, 6, generator=torch.Generator().manual_seed(0))
    return Tokens(states=states, pooled=states[:, 0], grid=(rows, columns))


def head(**options: object) -> QueryHead:
    torch.manual_seed(0)
    settings = {"states_width": 6, "classes": 4, "queries": 5, "width": 8, "blocks": 2, "heads": 2, "up": 1}
    return QueryHead(**{**settings, **options})


def test_segments_before_the_first_block_and_after_each() -> None:
    found = head()(tokens())
    assert len(found) == 3
    assert all(one.classes.shape == (2, 5, 5) and one.masks.shape == (2, 5, 4, 6) for one in found)
    assert torch.equal(found[0].classes[0], found[0].classes[1])  # queries have not seen the image
    assert not torch.allclose(found[1].classes[0], found[1].classes[1])


def test_every_parameter_gets_a_gradient() -> None:
    made = head()
    sum(one.classes.square().sum() + one.masks.square().sum() for one in made(tokens())).backward()
    assert [name for name, p in made.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


def test_texts_score_segments_beside_no_object() -> None:
    made = head(classes=None, embed_width=3)
    texts = F.normalize(torch.randn(7, 3), dim=-1)
    found = made(tokens(), texts)[-1]
    assert found.classes.shape == (2, 5, 8)
    swapped = made(tokens(), texts.flip(0))[-1]
    torch.testing.assert_close(swapped.classes[..., :7].flip(-1), found.classes[..., :7])
    torch.testing.assert_close(swapped.classes[..., 7], found.classes[..., 7])
    with pytest.raises(UserError, match="none were given"):
        made(tokens())


def test_every_place_is_a_query_with_a_disc_around_it() -> None:
    found = head(place_queries=True)(tokens(3, 4))
    assert all(one.classes.shape == (2, 5 + 12, 5) and one.masks.shape == (2, 17, 6, 8) for one in found)
    discs = found[-1].discs
    torch.testing.assert_close(
        discs.centre[0, 5], torch.tensor([1.5, 1.5]), atol=0.1, rtol=0
    )  # second row, second column
    torch.testing.assert_close(discs.radius, torch.full_like(discs.radius, 1.5), atol=0.1, rtol=0)
    without = torch.einsum("bqd,bdhw->bqhw", found[-1].embeddings, found[-1].pixels)
    added = (found[-1].masks - without).detach()
    assert not bool(added[:, :5].any())
    middle = added[0, 5 + 5].flatten().argmax()  # of the place in the second row and column, among 6 × 8 pixels
    assert middle in (2 * 8 + 2, 2 * 8 + 3, 3 * 8 + 2, 3 * 8 + 3)
    assert float(added[0, 5 + 5, 2, 2]) == pytest.approx(4 * (1 - 0.5**0.5 / 2 / 1.5), abs=0.5)
    assert float(added[0, 5 + 5, 5, 7]) < 0


def test_every_parameter_of_place_queries_gets_a_gradient() -> None:
    made = head(place_queries=True)
    sum(one.classes.square().sum() + one.masks.square().sum() for one in made(tokens())).backward()
    assert [name for name, p in made.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


def test_positions_differ_in_every_cell() -> None:
    positions = sine_positions(4, 5, 16, torch.zeros(1))
    assert positions.shape == (20, 16)
    assert float(torch.cdist(positions, positions).add(9 * torch.eye(20)).min()) > 0.1


def test_a_head_without_queries_is_refused() -> None:
    with pytest.raises(UserError, match="queries=0"):
        head(queries=0)
