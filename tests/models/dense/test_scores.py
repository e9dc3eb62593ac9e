from __future__ import annotations

import torch
import torch.nn.functional as F

from vlp.models.dense.scores import ClassScores, TextScores


def test_classes_start_improbable() -> None:
    torch.manual_seed(0)
    probability = ClassScores(width=8, classes=3)(torch.randn(2, 5, 8)).sigmoid()
    torch.testing.assert_close(probability, torch.full((2, 5, 3), 0.01), atol=0.002, rtol=0)


def test_texts_are_scored_by_shifted_and_scaled_cosine() -> None:
    torch.manual_seed(0)
    head = TextScores(width=8, embed_width=4).double()
    torch.nn.init.normal_(head.logit_shift.weight)
    torch.nn.init.normal_(head.logit_scale.weight)
    places, queries = torch.randn(2, 5, 8).double(), torch.randn(3, 4).double()
    cosine = F.cosine_similarity(head.dense0(places)[:, :, None], queries[None, None], dim=-1)
    scale = torch.where((s := head.logit_scale(places)) > 0, s + 1, s.exp())
    expected = (cosine + head.logit_shift(places)) * scale
    torch.testing.assert_close(head(places, queries), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(head(places, torch.stack([queries, queries])), expected, atol=1e-4, rtol=0)


def test_a_place_far_from_every_text_starts_improbable() -> None:
    torch.manual_seed(0)
    head = TextScores(width=8, embed_width=4)
    places = torch.randn(1, 5, 8)
    across = torch.linalg.svd(head.dense0(places)[0, :1])[2][1:]  # at right angles to the first place's embedding
    probability = head(places, across)[0, 0].sigmoid()
    torch.testing.assert_close(probability, torch.full((3,), 0.01), atol=0.002, rtol=0)
