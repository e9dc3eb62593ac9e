from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlp.metrics.recall import (
    chance_recall,
    count_ties,
    expected_hit,
    expected_rank,
    rank_candidates,
    recall_from_scores,
    summarise_recall,
)


def recall_at_k(
    image: Tensor,
    text: Tensor,
    image_id: Tensor,
    text_id: Tensor,
    ks: tuple[int, ...] = (1, 5, 10),
    chunk: int | None = None,
) -> dict[str, float]:
    to_text = rank_candidates(image, text, image_id, text_id, chunk)
    return summarise_recall(to_text, rank_candidates(text, image, text_id, image_id, chunk), ks)


def embeddings(n: int, m: int, noise: float = 0.7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * 1000 + m)
    image = F.normalize(torch.randn(n, 16, generator=generator), dim=-1)
    owner = torch.cat([torch.arange(n), torch.randint(n, (m - n,), generator=generator)])
    text = F.normalize(image[owner] + noise * torch.randn(m, 16, generator=generator), dim=-1)
    return image, text, torch.arange(n) + 100, owner + 100


def brute_force(scores: np.ndarray, right: np.ndarray, k: int) -> float:
    """Without ties: the share of rows with a right column among the k highest."""
    order = np.argsort(-scores, axis=1)[:, :k]
    return 100 * float(np.take_along_axis(right, order, 1).any(1).mean())


def test_equals_brute_force() -> None:
    image, text, image_id, text_id = embeddings(40, 130)
    figures = recall_at_k(image, text, image_id, text_id, ks=(1, 3, 10))
    scores = (image.double() @ text.double().T).numpy()
    right = (image_id[:, None] == text_id).numpy()
    for k in (1, 3, 10):
        assert figures[f"image_to_text_r{k}"] == pytest.approx(brute_force(scores, right, k), abs=1e-9)
        assert figures[f"text_to_image_r{k}"] == pytest.approx(brute_force(scores.T, right.T, k), abs=1e-9)
    assert 5 < figures["text_to_image_r1"] < 95
    ranks = [1 + (row > row[mine].max()).sum() for row, mine in zip(scores, right, strict=True)]
    assert figures["image_to_text_median_rank"] == np.median(ranks)


def test_chunks_and_repeats_change_no_digit() -> None:
    image, text, image_id, text_id = embeddings(23, 61)
    text[10:30] = text[5]  # many equal texts: a rounding error of one product would break these ties
    image[7] = image[3]
    results = [recall_at_k(image, text, image_id, text_id, chunk=chunk) for chunk in (1, 7, 1000, None)]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_embeddings_score_exactly_chance(value: float) -> None:
    image_id = torch.arange(20)
    text_id = torch.arange(100) // 5
    figures = recall_at_k(torch.full((20, 3), value), torch.full((100, 3), value), image_id, text_id)
    assert figures["text_to_image_r5"] == pytest.approx(25)
    assert figures["image_to_text_r1"] == pytest.approx(5)
    misses = np.prod([(95 - i) / (100 - i) for i in range(10)])
    assert figures["image_to_text_r10"] == pytest.approx(100 * (1 - misses))
    assert figures == pytest.approx(chance_recall(image_id, text_id))


def test_tie_rule_is_the_mean_over_all_orders() -> None:
    row = [3.0, 2.0, 2.0, 2.0, 2.0, 1.0]
    right = [False, True, False, True, False, True]
    ties = count_ties(torch.tensor([row]), torch.tensor([right]))
    orders = [[0, *middle, 5] for middle in itertools.permutations(range(1, 5))]
    for k in range(1, 7):
        mean = np.mean([any(right[i] for i in order[:k]) for order in orders])
        assert float(expected_hit(ties, k)) == pytest.approx(mean)
    first = np.mean([next(place for place, i in enumerate(order, start=1) if right[i]) for order in orders])
    assert float(expected_rank(ties)) == pytest.approx(first)


def test_any_image_of_the_same_id_is_right() -> None:
    image = torch.eye(3)
    figures = recall_at_k(image, torch.eye(3)[[1]], torch.tensor([5, 5, 5]), torch.tensor([5]), ks=(1,))
    assert figures["text_to_image_r1"] == 100


@pytest.mark.parametrize("name", ["dense", "ragged", "topk_filled_minus100"])
def test_albefs_evaluation(shared: Path, name: str) -> None:
    expected = json.loads((shared / "reference/metrics/itm_eval_expected.json").read_text())[name]
    scores = np.load(shared / "reference/metrics/itm_eval_scores.npz")
    to_text, to_image = torch.tensor(scores[f"{name}_i2t"]), torch.tensor(scores[f"{name}_t2i"])
    owner = torch.tensor([expected["txt2img"][str(index)] for index in range(len(to_image))])
    figures = recall_from_scores(to_text, torch.arange(len(to_text)), owner, text_scores=to_image)
    for k in (1, 5, 10):
        assert figures[f"image_to_text_r{k}"] == pytest.approx(expected["result"][f"txt_r{k}"], abs=1e-9)
        assert figures[f"text_to_image_r{k}"] == pytest.approx(expected["result"][f"img_r{k}"], abs=1e-9)


def test_queries_without_an_answer_and_diverged_models_are_errors() -> None:
    image, text, image_id, text_id = embeddings(4, 4)
    with pytest.raises(ValueError, match="1 queries have no correct candidate"):
        recall_at_k(image, text[:3], image_id, text_id[:3])
    with pytest.raises(ValueError, match="diverged"):
        recall_at_k(image * float("nan"), text, image_id, text_id)
