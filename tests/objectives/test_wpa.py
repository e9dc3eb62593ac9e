"""Word-patch alignment: the transport plan, what counts as word and patch, which pairs, and two processes against one."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch

from tests.checkpoints.fixtures import arrays
from tests.objectives.single_stream import assert_two_processes_equal_one, model, single_stream_batch
from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.objectives.wpa import WPA, transport_distance, transport_plan
from vlp.structures import Loss, Tokens


def test_distances_of_vilt(shared: Path) -> None:
    data = arrays(shared / "reference" / "vilt" / "pretrain" / "wpa_function.npz")
    distances = transport_distance(data["txt_emb"], data["img_emb"], ~data["txt_pad"], ~data["img_pad"])
    torch.testing.assert_close(distances, data["distance"], atol=1e-6, rtol=0)


def test_a_plan_moves_equal_shares_and_nothing_of_padding() -> None:
    torch.manual_seed(0)
    real = torch.zeros(2, 5, 7, dtype=torch.bool)
    real[0], real[1, :3, :4] = True, True
    plan = transport_plan(torch.rand(2, 5, 7).double() * real, real, iterations=400)
    torch.testing.assert_close(plan[0].sum(1), torch.full((5,), 1 / 5).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(plan[0].sum(0), torch.full((7,), 1 / 7).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(plan[1, :3, :4].sum(0), torch.full((4,), 1 / 4).double(), atol=1e-3, rtol=0)
    assert (plan[~real] == 0).all()


def test_the_plan_comes_close_to_the_cheapest_assignment() -> None:
    torch.manual_seed(0)
    cost = torch.rand(1, 5, 5).double()
    cheapest = min(sum(float(cost[0, i, j]) for i, j in enumerate(order)) / 5 for order in permutations(range(5)))
    plan = transport_plan(cost, torch.ones(1, 5, 5, dtype=torch.bool), beta=0.05, iterations=500)
    assert abs(float((plan * cost).sum()) - cheapest) < 1e-4


def test_words_that_are_patches_have_no_distance_and_a_gradient_pulls_others_there() -> None:
    torch.manual_seed(0)
    patches, every = torch.randn(1, 6, 16), torch.ones(1, 6, dtype=torch.bool)
    assert transport_distance(patches[:, torch.randperm(6)], patches, every, every) < 0.02
    words = torch.randn(1, 6, 16, requires_grad=True)
    before = transport_distance(words, patches, every, every)
    before.sum().backward()
    assert transport_distance(words - words.grad, patches, every, every) < before


def test_a_text_without_words_has_distance_and_gradient_zero() -> None:
    words, patches = torch.randn(2, 4, 8, requires_grad=True), torch.randn(2, 5, 8)
    real = torch.tensor([[False] * 4, [True] * 4])
    distance = transport_distance(words, patches, real, torch.ones(2, 5, dtype=torch.bool))
    distance.sum().backward()
    assert distance[0] == 0
    assert (words.grad[0] == 0).all()
    assert words.grad[1].abs().max() > 0


def test_start_end_class_token_and_padding_are_neither_words_nor_patches() -> None:
    torch.manual_seed(0)
    words, patches = (
        (torch.arange(6)[None] < torch.tensor([[6], [4]])),
        (torch.arange(5)[None] < torch.tensor([[3], [5]])),
    )
    text = Tokens(states=torch.randn(2, 6, 8), pooled=torch.zeros(2, 8), mask=words)
    image = Tokens(states=torch.randn(2, 5, 8), pooled=torch.zeros(2, 8), mask=patches)
    states = torch.randn(2, 11, 8)
    distances = WPA().distance(Tokens(states=states, pooled=torch.zeros(2, 8)), text, image)
    for row, (last, patch) in enumerate(((5, 3), (3, 5))):
        row_states = states[row : row + 1]
        real = [torch.ones(1, count, dtype=torch.bool) for count in (last - 1, patch - 1)]
        expected = transport_distance(row_states[:, 1:last], row_states[:, 7 : 6 + patch], *real)
        torch.testing.assert_close(distances[row : row + 1], expected)


def test_about_half_of_the_pairs_are_matched_and_the_others_are_of_other_images() -> None:
    objective, fused = WPA(), model()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spy(_: object, text: Tokens, image: Tokens, matched: torch.Tensor) -> Loss:
        seen.append((image.states, matched))
        return Loss(value=torch.tensor(0.0))

    objective.loss = spy  # type: ignore[method-assign, assignment]
    batch, draws = single_stream_batch(), 40
    features = compute_features(fused, batch, objective.uses)
    for visit in range(draws):
        objective(fused, replace(batch, seed=batch.seed + 1000 * visit), features)
    images = features.memory.states
    for states, matched in seen:
        equal = (states == images).flatten(1).all(1)
        assert torch.equal(equal, matched)  # samples 1 and 7 are of one image, so neither is the other's negative
    share = torch.stack([matched for _, matched in seen]).double().mean()
    assert 0.42 < share < 0.58


def test_images_of_one_kind_are_all_matched() -> None:
    batch, objective, fused = single_stream_batch(), WPA(), model()
    batch = replace(batch, id=torch.zeros(12, dtype=torch.int64))
    features = compute_features(fused, batch, objective.uses)
    loss = objective(fused, batch, features)
    distance = objective.distance(fused.fuse(features.text, features.memory), features.text, features.memory)
    torch.testing.assert_close(loss.value, distance.mean())
    assert loss.logs["unmatched_distance"] == 0


def test_training_draws_pairs_together_and_others_apart() -> None:
    torch.manual_seed(0)
    batch, objective, fused = single_stream_batch(), WPA(), model()
    optimizer = torch.optim.Adam(fused.parameters(), lr=0.01)
    for _ in range(60):
        loss = objective(fused, batch, compute_features(fused, batch, objective.uses))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert loss.logs["matched_distance"] + 0.2 < loss.logs["unmatched_distance"]


def test_it_wants_a_single_stream() -> None:
    batch, objective, crossed = toy_batch(), WPA(), toy_model(fused=True).double()
    with pytest.raises(ValueError, match="set model/fusion=single_stream"):
        objective(crossed, batch, compute_features(crossed, batch, objective.uses))


def test_two_processes_equal_one() -> None:
    """Whose images are of different sizes, on one with and on the other without padding."""
    assert_two_processes_equal_one("wpa")
