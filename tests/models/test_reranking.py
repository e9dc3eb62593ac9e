"""Scores of pairs, grouped by image and bucketed by length, equal those of one pair at a time."""

from __future__ import annotations

import pytest
import torch

from tests.models.fusion.test_cross import fusion
from vlp.models.fusion.single_stream import SingleStreamFusion
from vlp.models.reranking import PackedTokens, candidate_pairs, score_pairs
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import CrossAttentionCache, Tokens

CPU = torch.device("cpu")


def rows(count: int, lengths: list[int], seed: int) -> Tokens:
    states = torch.randn(count, max(lengths), 32, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return Tokens(states=states, pooled=states[:, 0], mask=mask)


def score(model: VisionLanguageModel, text: Tokens, memory: CrossAttentionCache | Tokens) -> torch.Tensor:
    return model.fuse(text, memory).pooled.sum(1)


@pytest.mark.parametrize("kind", ["cross", "single_stream"])
@pytest.mark.parametrize("tokens", [4096, 10])
def test_equals_one_pair_at_a_time(kind: str, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlp.models.reranking.MAX_FUSED_TOKENS", tokens)
    torch.manual_seed(0)
    single = SingleStreamFusion(image_width=32, text_width=32, width=32, layers=2, heads=4).eval()
    model = VisionLanguageModel(fusion=fusion() if kind == "cross" else single)
    image, text = rows(4, [5, 3, 5, 4], 1), rows(7, [6, 2, 4, 1, 6, 3, 2], 2)
    pairs = torch.tensor([(i, j) for i in (3, 0, 1) for j in range(7) if (i + j) % 3])
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(3))
    done: list[tuple[int, int]] = []
    packed = PackedTokens.from_batches([image.select(slice(0, 3)), image.select(slice(3, 4))])
    found = score_pairs(
        model, score, packed, PackedTokens.from_batches([text]), pairs[order], device=CPU,
        report=lambda count, of, _: done.append((count, of)),
    )  # fmt: skip
    with torch.no_grad():
        for (i, j), value in zip(pairs[order].tolist(), found, strict=True):
            alone = score(model, text.select([j]), model.project_memory(image.select([i])))
            torch.testing.assert_close(value, alone[0], rtol=1e-4, atol=1e-4)
    assert done[-1] == (len(pairs), len(pairs))


def test_keys_and_values_are_projected_once_an_image() -> None:
    ours = fusion()
    seen = []
    ours.blocks[0].cross_attention.key_value.register_forward_hook(lambda *_: seen.append(1))
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(5))
    image, text = (
        PackedTokens.from_batches([rows(3, [5, 5, 5], 1)]),
        PackedTokens.from_batches([rows(5, [6, 2, 4, 1, 6], 2)]),
    )
    score_pairs(VisionLanguageModel(fusion=ours), score, image, text, pairs, device=CPU)
    assert len(seen) == 3


def test_candidates_are_the_most_similar() -> None:
    similarity = torch.randn(9, 20, generator=torch.Generator().manual_seed(0))
    found = candidate_pairs(lambda first, last: similarity[first:last], 9, 3, rows=4)
    expected = [(q, c) for q in range(9) for c in similarity[q].topk(3).indices.tolist()]
    assert found.tolist() == [list(pair) for pair in expected]
