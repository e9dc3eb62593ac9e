from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.towers import toy_model
from vlp.models.dense.vocabulary import Vocabulary, draw_classes
from vlp.structures import Text
from vlp.system.errors import UserError

TEMPLATES = ("a {}", "{} there")


def _tokens(texts: list[str], **_: object) -> Text:
    """Ids by the letters of a text, so that equal texts are equal and others are not."""
    ids = torch.tensor([[1 + sum(map(ord, word)) % 29 for word in (text.split() + ["-"] * 3)[:3]] for text in texts])
    return Text(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))


def test_names_are_means_of_their_prompts_and_learn() -> None:
    model = toy_model()
    vocabulary = Vocabulary(["ring", "disc", "moon"], tokenizer=_tokens, templates=TEMPLATES)
    queries = vocabulary.embed(model, torch.tensor([2, 0]))
    prompts = [
        model.embed_text(model.encode_text(_tokens([t.replace("{}", name) for t in TEMPLATES])))
        for name in ("moon", "ring")
    ]
    expected = F.normalize(torch.stack([rows.mean(0) for rows in prompts]), dim=-1)
    torch.testing.assert_close(queries, expected)
    assert queries.requires_grad
    with torch.no_grad():
        model.text.net.weight.add_(1.0)
    assert not torch.equal(vocabulary.embed(model, torch.tensor([2, 0])), queries)


def test_names_of_a_frozen_text_tower_are_embedded_once() -> None:
    model = toy_model().requires_grad_(False)
    vocabulary = Vocabulary(["ring", "disc", "moon"], tokenizer=_tokens, templates=TEMPLATES)
    everything = vocabulary.embed(model)
    model.text.forward = None  # would fail if called
    torch.testing.assert_close(vocabulary.embed(model, torch.tensor([2, 0])), everything[[2, 0]])


def test_what_is_no_query_is_refused() -> None:
    with pytest.raises(UserError, match=r"'a ring' has no \{\}"):
        Vocabulary(["ring"], tokenizer=_tokens, templates=["a ring"])
    with pytest.raises(UserError, match="at least one template"):
        Vocabulary(["ring"], tokenizer=_tokens, templates=[])


def test_classes_of_a_step() -> None:
    present, candidates = torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0, 0.0]), torch.tensor([0, 1, 2, 4, 5])
    assert draw_classes(present, candidates, None, seed=0).tolist() == [0, 1, 2, 4, 5]
    drawn = [draw_classes(present, candidates, 1, seed=seed).tolist() for seed in range(20)]
    assert all({1, 4} < set(classes) <= {0, 1, 2, 4, 5} and len(classes) == 3 for classes in drawn)
    assert len({tuple(classes) for classes in drawn}) == 3  # each of 0, 2 and 5 at times
    assert drawn == [draw_classes(present, candidates, 1, seed=seed).tolist() for seed in range(20)]
    assert draw_classes(present, candidates, 0, seed=0).tolist() == [1, 4]
