"""How well words and tags alone choose the answers and rationales of VCR's files: a logistic regression that sees no picture.

Features of a choice: its words; each word of the query with each of its words; which tags it has and how often the query has
them; how many words and tags it shares with the query and with the other choices; and its length. In QA→R the query is the
question with its right answer. On data whose words decide nothing it is right in 25 % of questions, as any guess is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from vlp.random import permutation
from vlp.system.errors import UserError

Question = dict[str, Any]  # a row of the jsonl
Example = tuple[list[np.ndarray], int]  # the numbers of the features of each choice, and the right one

BATCH, RATE, PENALTY = 256, 0.05, 1e-5
EPOCHS, FEWEST_STEPS = 4, 200
KINDS = {"question_to_answer": "answer", "answer_to_rationale": "rationale"}


@dataclass(frozen=True)
class TextCheck:
    """Accuracy in percent of the test questions, and how many these are."""

    question_to_answer: float
    answer_to_rationale: float
    questions: int


def check_texts(folder: Path) -> TextCheck:
    """Fitted on train.jsonl, measured on test.jsonl.  Raises UserError where one of them is missing or has no labels."""
    train, test = (_read(folder / f"{split}.jsonl") for split in ("train", "test"))
    accuracy = {name: _accuracy(train, test, kind) for name, kind in KINDS.items()}
    return TextCheck(**accuracy, questions=len(test))


def _read(path: Path) -> list[Question]:
    if not path.is_file():
        raise UserError(f"{path} is missing: the check of texts needs train.jsonl and test.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not rows or any(f"{kind}_label" not in row for row in rows for kind in KINDS.values()):
        raise UserError(f"{path} has questions without labels: the check of texts needs those of all")
    return rows


def _accuracy(train: Sequence[Question], test: Sequence[Question], kind: str) -> float:
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a feature's number is how many there were before
    examples = [_encode(row, kind, numbers) for row in train]
    weight = torch.zeros(len(numbers), 1, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=RATE)
    batches = -(-len(train) // BATCH)
    epochs = max(EPOCHS, -(-FEWEST_STEPS // batches))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs * batches)
    for epoch in range(epochs):
        for batch in permutation(len(train), epoch).split(BATCH):
            optimizer.zero_grad()
            scores, label = _scores([examples[index] for index in batch.tolist()], weight)
            loss = F.cross_entropy(scores, label) + PENALTY * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    numbers.default_factory = None
    known = weight.detach()
    hits = [
        (scores.argmax(1) == label).sum().item()
        for first in range(0, len(test), BATCH)
        for scores, label in [_scores([_encode(row, kind, numbers) for row in test[first : first + BATCH]], known)]
    ]
    return 100 * sum(hits) / len(test)


def _scores(examples: Sequence[Example], weight: Tensor) -> tuple[Float[Tensor, "b 4"], Int[Tensor, " b"]]:
    """Of each question's choices, and the labels."""
    choices = [torch.from_numpy(choice) for choices, _ in examples for choice in choices]
    offsets = torch.tensor([0, *map(len, choices[:-1])]).cumsum(0)
    scores = F.embedding_bag(torch.cat(choices), weight, offsets, mode="sum")
    return rearrange(scores, "(b k) 1 -> b k", k=4), torch.tensor([label for _, label in examples])


def _encode(row: Question, kind: str, numbers: Mapping[str, int]) -> Example:
    """The numbers of each choice's features, those that `numbers` does not know left out, and the label."""
    query = _terms(row["question"])
    if kind == "rationale":
        query += _terms(row["answer_choices"][row["answer_label"]])
    choices = [_terms(choice) for choice in row[f"{kind}_choices"]]
    found = []
    for place, choice in enumerate(choices):
        others = [term for other, terms in enumerate(choices) if other != place for term in terms]
        names = dict.fromkeys(_features(query, choice, others))
        growing = isinstance(numbers, defaultdict) and numbers.default_factory is not None
        found.append(np.array([numbers[name] for name in names if growing or name in numbers], dtype=np.int64))
    return found, row[f"{kind}_label"]


def _terms(tokens: Iterable[Any]) -> list[str]:
    """Words as they are, and tags as #0, #1, …"""
    return [
        word
        for token in tokens
        for word in ([token.lower()] if isinstance(token, str) else [f"#{tag}" for tag in token])
    ]


def _features(query: Sequence[str], choice: Sequence[str], others: Sequence[str]) -> Iterable[str]:
    yield from (f"has {term}" for term in choice)
    yield from (f"{number} {term}" for number, term in enumerate(choice))
    yield from (f"{asked} with {term}" for asked, term in product(query, choice))
    yield from (f"{term} in others {others.count(term)}" for term in choice)
    yield f"length {len(choice)}"
    for name, terms in (("query", query), ("others", others)):
        for tags in (False, True):
            yield f"{name} shares {sum(terms.count(term) for term in choice if term.startswith('#') == tags)} {tags}"
    yield from (f"{first} then {second}" for first, second in pairwise(choice))
