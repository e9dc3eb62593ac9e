"""Late interaction against its equations in plain loops, in pairs, all pairs and with padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vlp.models.fusion.attended_similarity as attended
from vlp.models.fusion.attended_similarity import MAX_SHARPNESS
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
    for side in (made.image, made.text):
        for parameter in (*side.residual[-1].parameters(), *side.weight.parameters()):
            torch.nn.init.normal_(parameter)
    return made.eval()


def score(made: LateFusion, text: int, image: int) -> float:
    """The module's equation, word by word and place by place."""
    words, alpha = vectors(made.text, TEXT.states[text][TEXT.mask[text]])
    places, beta = vectors(made.image, IMAGE.states[image][IMAGE.mask[image]])
    total = 0.0
    for mine, weights, others in ((words, alpha, places), (places, beta, words)):
        for one, weight in zip(mine, weights, strict=True):
            cosine = torch.stack([one @ other for other in others])
            total += float(weight * ((4.0 * cosine).softmax(0) * cosine).sum())
    return 10 * total


def vectors(side: torch.nn.Module, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    z = side.input(states)
    z = z + side.residual(z)
    return F.normalize(z, dim=1), side.weight(z)[:, 0].softmax(0)


def test_pairs_equal_the_equations() -> None:
    made = fusion()
    expected = torch.tensor([[score(made, text, image) for image in range(2)] for text in range(3)]).double()
    memory = made.project_memory(IMAGE)
    torch.testing.assert_close(made.score_all_pairs(TEXT, memory), expected, atol=1e-6, rtol=0)
    for image in range(2):
        one = made.score(TEXT, memory.select(torch.tensor([image])))
        each = made.score(TEXT, memory.select(torch.tensor([image] * 3)))
        torch.testing.assert_close(one, expected[:, image], atol=1e-6, rtol=0)
        torch.testing.assert_close(each, expected[:, image], atol=1e-6, rtol=0)


def test_the_scale_is_bounded() -> None:
    assert float(fusion(temperature=1e-4, max_scale=50.0).scale()) == pytest.approx(50.0)


def test_its_own_bfloat16_is_near() -> None:
    made, narrow = fusion().float(), fusion(bf16=True).float()
    text, image = (
        replace(tokens, states=tokens.states.float(), pooled=tokens.pooled.float()) for tokens in (TEXT, IMAGE)
    )
    expected = made.score_all_pairs(text, made.project_memory(image))
    found = narrow.score_all_pairs(text, narrow.project_memory(image))
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=0.2, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = made.score_all_pairs(text, made.project_memory(image))
        pairs = made.score(text, made.project_memory(image.select(torch.tensor([0]))))
    assert mixed.dtype == pairs.dtype == torch.float32
    torch.testing.assert_close(mixed, expected, atol=0.2, rtol=0)
    torch.testing.assert_close(pairs, expected[:, 0], atol=0.2, rtol=0)


def test_gradients_under_autocast_are_those_of_bfloat16() -> None:
    """The way back makes the cosines again, and must make the same."""
    made, generator = fusion(sharpness=40.0).float(), torch.Generator().manual_seed(0)
    states = [torch.randn(4, 7, 6, generator=generator) for _ in range(2)]
    text, image = (Tokens(states=x, pooled=x[:, 0]) for x in states)

    def gradients(mixed: bool) -> Tensor:
        made.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            made.score_all_pairs(text, made.project_memory(image)).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])

    exact = gradients(False)
    assert float((gradients(True) - exact).norm() / exact.norm()) < 0.03


def test_bounds() -> None:
    made = fusion()
    with torch.no_grad():
        made.log_sharpness.fill_(10.0)
        made.log_scale.fill_(10.0)
    assert float(made.sharpness()) == pytest.approx(MAX_SHARPNESS)
    made.clamp_parameters()
    assert float(made.log_sharpness.exp()) == pytest.approx(MAX_SHARPNESS)
    assert float(made.log_scale.exp()) == pytest.approx(100.0)
    with pytest.raises(ValueError, match="sharpness=50"):
        fusion(sharpness=50.0)
    with pytest.raises(ValueError, match="caption 1 of the batch has no word"):
        made.score_all_pairs(
            replace(TEXT, mask=torch.tensor([[True] * 5, [False] * 5, [True] * 5])), made.project_memory(IMAGE)
        )


@pytest.mark.parametrize("block", [2**19, 31])
@pytest.mark.parametrize("lengths", [[5, 5, 5], [5, 3, 1]])
def test_gradients_of_attended_similarities(lengths: list[int], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of all and of one or two captions."""
    monkeypatch.setitem(attended._BLOCK, "cpu", block)
    generator = torch.Generator().manual_seed(0)
    words, places = (
        F.normalize(torch.randn(*shape, 4, generator=generator).double(), dim=-1) for shape in ((8,), (3, 5))
    )
    sharpness = torch.tensor(6.0).double()
    owner, seen = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3]), torch.arange(5) < torch.tensor(lengths)[:, None]

    def plain(words: Tensor, places: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        cosine = torch.einsum("wd, bpd -> wbp", words, places).masked_fill(~seen, -1e3)
        by_word = ((sharpness * cosine).softmax(-1) * cosine).sum(-1)
        captions = [cosine[owner == caption] for caption in range(4)]
        by_place = torch.stack([((sharpness * c).softmax(0) * c).sum(0) for c in captions])
        return by_word, by_place.where(seen, 0)

    def ours(words: Tensor, places: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        return attended.attended_similarity(words, places, sharpness, owner=owner, captions=4, region_mask=seen)

    inputs = [x.requires_grad_() for x in (words, places, sharpness)]
    for found, expected in zip(ours(*inputs), plain(*inputs), strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(ours, inputs)
