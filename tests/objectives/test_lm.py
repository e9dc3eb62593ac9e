"""Captioning loss: which tokens count, that it learns, and two processes against one."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from tests.gradients import gradients
from tests.processes import run_processes
from tests.towers import ToyVision, toy_batch
from tests.words import WordTokenizer
from vlp.models.decoder.causal import CausalDecoder
from vlp.models.features import compute_features
from vlp.models.momentum import MomentumCopy
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.lm import LM, add_prompt_and_end, losses_at_targets, token_losses
from vlp.structures import Batch, Text, Tokens

TOKENIZER = WordTokenizer([str(number) for number in range(40)])
END = TOKENIZER.end_id


def toy() -> VisionLanguageModel:
    torch.manual_seed(0)
    decoder = CausalDecoder(
        vocabulary_size=30, memory_width=8, width=8, layers=1, heads=2, context_length=16, dropout=0.0
    )
    return VisionLanguageModel(vision=ToyVision(), decoder=decoder).double()


def lm_objective(**options: Any) -> LM:
    objective = LM(**options)
    objective.prepare(toy(), TOKENIZER, None)
    return objective


def value(
    objective: LM, model: VisionLanguageModel, batch: Batch, momentum: MomentumCopy | None = None
) -> torch.Tensor:
    return objective(model, batch, compute_features(model, batch, objective.uses, momentum=momentum)).value


def test_the_prompt_is_put_in_and_an_end_is_added_where_there_is_none() -> None:
    text = Text(
        ids=torch.tensor([[[1, 5, 6, END], [1, 7, END, 0]], [[1, 8, 9, 0], [0, 0, 0, 0]]]),
        mask=torch.tensor([[[True] * 4, [True] * 3 + [False]], [[True] * 3 + [False], [False] * 4]]),
    )
    result = add_prompt_and_end(text, torch.tensor([3, 4]), END)
    assert [row[real].tolist() for row, real in zip(result.ids, result.mask, strict=True)] == [
        [1, 3, 4, 5, 6, END], [1, 3, 4, 7, END], [1, 3, 4, 8, 9, END], [],
    ]  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_token_after_the_prompt_counts_once(smoothing: float) -> None:
    text = Text(ids=torch.tensor([[1, 3, 5, 2], [1, 3, 2, 0]]), mask=torch.tensor([[True] * 4, [True] * 3 + [False]]))
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    result = token_losses(logits, text, label_smoothing=smoothing, prompt=1)
    target = torch.tensor([[-100, 5, 2], [-100, 2, -100]])
    expected = F.cross_entropy(logits[:, :-1].mT, target, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(result[:, 1:], expected)
    assert not result[:, 0].any()


def test_soft_targets_have_their_share() -> None:
    text = Text(ids=torch.tensor([[1, 3, 2]]), mask=torch.ones(1, 3, dtype=torch.bool))
    logits, momentum_logits = torch.randn(2, 1, 3, 7, generator=torch.Generator().manual_seed(0))
    result = token_losses(logits, text, momentum_logits=momentum_logits, alpha=0.4)[0, 1:]
    hard = F.cross_entropy(logits[0, :-1], text.ids[0, 1:], reduction="none")
    soft = F.cross_entropy(logits[0, :-1], momentum_logits[0, :-1].softmax(-1), reduction="none")
    torch.testing.assert_close(result, 0.6 * hard + 0.4 * soft)


def test_padding_and_several_captions_of_an_image() -> None:
    batch, model, objective = toy_batch(same_image=False), toy(), lm_objective()
    caption = batch.caption
    rows = [value(objective, model, toy_batch(slice(i, i + 1), same_image=False)) for i in range(12)]
    counts = caption.mask.sum(1).double()  # one more than the tokens to predict, and one end token is added
    expected = (torch.stack(rows) * counts).sum() / counts.sum()
    torch.testing.assert_close(value(objective, model, batch), expected)
    pairs = Text(ids=caption.ids.view(6, 2, -1), mask=caption.mask.view(6, 2, -1))
    first = batch.image.select(slice(0, 6))
    both = dataclasses.replace(toy_batch(slice(0, 6), same_image=False), caption=pairs)
    doubled = type(first)(pixels=first.pixels.repeat_interleave(2, 0))
    torch.testing.assert_close(
        value(objective, model, both), value(objective, model, dataclasses.replace(batch, image=doubled))
    )


def test_distils_from_the_momentum_copy() -> None:
    batch, model = toy_batch(same_image=False), toy()
    objective = lm_objective(distillation=0.5)
    momentum = MomentumCopy(model, {"lm": objective})
    hard = value(lm_objective(), model, batch)
    with torch.no_grad():
        logits = model.decode(
            add_prompt_and_end(batch.caption, torch.zeros(0, dtype=torch.int64), END), model.encode_image(batch.image)
        )
        text = add_prompt_and_end(batch.caption, torch.zeros(0, dtype=torch.int64), END)
        soft = token_losses(logits, text, momentum_logits=logits, alpha=1.0).sum() / text.mask[:, 1:].sum()
    torch.testing.assert_close(value(objective, model, batch, momentum), (hard + soft) / 2)


def test_learns_the_captions() -> None:
    torch.manual_seed(0)
    batch, model, objective = toy_batch(same_image=False), toy(), lm_objective(prompt="7 9")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        loss = objective(model, batch, compute_features(model, batch, objective.uses))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert loss.logs["accuracy"] > 90


class Step(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model, self.objective = toy(), lm_objective(label_smoothing=0.1)

    def forward(self, batch: Batch) -> torch.Tensor:
        return value(self.objective, self.model, batch)


def _on_rank(rank: int, world: int) -> dict[str, torch.Tensor]:
    rows = (slice(0, 5), slice(5, 12))[rank]
    return gradients(DistributedDataParallel(Step()), toy_batch(rows, same_image=False))


@functools.cache
def on_two_ranks() -> list[dict[str, torch.Tensor]]:
    with tempfile.TemporaryDirectory() as folder:
        return run_processes(2, _on_rank, Path(folder))


def test_two_processes_equal_one() -> None:
    one = gradients(Step(), toy_batch(same_image=False))
    for two in on_two_ranks():
        assert one.keys() == two.keys()
        for name, expected in one.items():
            torch.testing.assert_close(two[name], expected, rtol=0, atol=1e-12, msg=name)


def test_losses_at_targets_are_those_of_all_positions() -> None:
    torch.manual_seed(0)
    decoder = CausalDecoder(
        vocabulary_size=20, memory_width=6, width=8, layers=1, heads=2, context_length=8, dropout=0.0
    )
    mask = torch.arange(6)[None] < torch.tensor([[6], [3], [2]])
    text = Text(ids=torch.randint(1, 20, (3, 6)) * mask, mask=mask)
    memory = Tokens(states=torch.randn(3, 4, 6), pooled=torch.randn(3, 6))
    for rows in (slice(None), slice(0, 1)):  # with padding, and without
        part, states = text.select(rows), memory.select(rows)
        logits = decoder(part, states)
        expected = token_losses(logits, part, label_smoothing=0.1)
        losses, correct = losses_at_targets(decoder, part, states, label_smoothing=0.1)
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
        assert correct == ((logits[:, :-1].argmax(2) == part.ids[:, 1:]) & part.mask[:, 1:]).sum()
