"""Greedy, beam search and nucleus sampling: against all texts of a toy language, and against BLIP's own captions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints.fixtures import arrays, opened
from vlp.models.generation import GenerationRules, beam_search, greedy_search, sample_nucleus
from vlp.structures import Image

END, PAD = 4, 0
LOGITS = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(3)).log_softmax(-1)  # by language, last token


class Toy:
    """Languages in which the next token depends on the last one; its cache is the language of each row."""

    def __init__(self, language: torch.Tensor) -> None:
        self.language = language

    def select(self, index: torch.Tensor) -> Toy:
        return Toy(self.language[index])


def step(ids: torch.Tensor, cache: Toy) -> tuple[torch.Tensor, Toy]:
    return LOGITS[cache.language, ids[:, -1]], cache


def rules(**changes: Any) -> GenerationRules:
    return GenerationRules(**{"end_id": END, "pad_id": PAD, "max_length": 4} | changes)


PROMPT = torch.tensor([[1], [2], [3]])


def best_of_all(language: int, start: int, limits: GenerationRules, penalty: float) -> list[int]:
    """By going through all texts."""
    scored = []
    for length in range(limits.max_length):
        for words in itertools.product(range(4), repeat=length):
            text = [start, *words]
            score = sum(LOGITS[language, a, b].item() for a, b in itertools.pairwise(text))
            if len(text) < limits.max_length:
                if len(text) < limits.min_length:
                    continue
                score += LOGITS[language, text[-1], END].item()
            ended = [*text, END] if len(text) < limits.max_length else text
            scored.append((score / len(text) ** penalty, ended))
    return max(scored)[1]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("min_length", [0, 3])
def test_enough_beams_find_the_best_of_all_texts(penalty: float, min_length: int) -> None:
    limits = rules(min_length=min_length)
    found = beam_search(step, Toy(torch.arange(3)), PROMPT, limits, beams=64, length_penalty=penalty)
    for language, row in enumerate(found.tolist()):
        expected = best_of_all(language, int(PROMPT[language, 0]), limits, penalty)
        assert row[: len(expected)] == expected
        assert set(row[len(expected) :]) <= {PAD}


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_beams_of_a_model_in_half_precision(precision: torch.dtype) -> None:
    def half(ids: torch.Tensor, cache: Toy) -> tuple[torch.Tensor, Toy]:
        logits, cache = step(ids, cache)
        return (100 * logits).round().to(precision), cache  # what even bfloat16 tells apart

    def single(ids: torch.Tensor, cache: Toy) -> tuple[torch.Tensor, Toy]:
        logits, cache = half(ids, cache)
        return logits.float(), cache

    limits = rules(max_length=9)
    found, expected = (beam_search(one, Toy(torch.arange(3)), PROMPT, limits, beams=3) for one in (half, single))
    assert found.tolist() == expected.tolist()


def test_greedy_takes_the_most_probable_token_and_stops_at_the_end() -> None:
    found = greedy_search(step, Toy(torch.arange(3)), PROMPT, rules(max_length=12))
    for language, row in enumerate(found.tolist()):
        for position in range(1, len(row)):
            before = row[:position]
            expected = PAD if END in before else int(LOGITS[language, before[-1]].argmax())
            assert row[position] == expected


def test_each_row_is_searched_for_itself() -> None:
    together = beam_search(step, Toy(torch.arange(3)), PROMPT, rules(max_length=8), beams=3)
    for row in range(3):
        alone = beam_search(step, Toy(torch.tensor([row])), PROMPT[row : row + 1], rules(max_length=8), beams=3)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()


def test_repetition_makes_scores_worse_whatever_their_sign() -> None:
    scores = torch.tensor([[2.0, -1.0, 1.0, 0.5, -3.0]])
    found = rules(repetition_penalty=2.0).adjust_scores(scores, torch.tensor([[0, 1, 0]]))
    assert found.tolist() == [[1.0, -2.0, 1.0, 0.5, -3.0]]


def test_nucleus_draws_from_the_most_probable_tokens_by_seed_alone() -> None:
    count = 4000
    language, prompt = Toy(torch.zeros(count, dtype=torch.int64)), torch.full((count, 1), 2)
    probability = LOGITS[0, 2].exp()
    first = probability.sort(descending=True)
    kept = first.indices[: int((first.values.cumsum(0) < 0.7).sum()) + 1]
    seeds = torch.arange(count)
    drawn = sample_nucleus(step, language, prompt, rules(max_length=2), top_p=0.7, seeds=seeds)[:, 1]
    share = torch.bincount(drawn, minlength=5) / count
    expected = torch.zeros(5)
    expected[kept] = probability[kept] / probability[kept].sum()
    torch.testing.assert_close(share, expected, atol=0.03, rtol=0)
    again = sample_nucleus(
        step, Toy(torch.zeros(10, dtype=torch.int64)), prompt[:10], rules(max_length=2), top_p=0.7, seeds=seeds[:10]
    )
    assert torch.equal(again[:, 1], drawn[:10])


def test_a_prompt_of_max_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="is not shorter than max_length"):
        greedy_search(step, Toy(torch.arange(3)), PROMPT.expand(3, 4), rules())


@pytest.mark.parametrize(
    "name",
    [
        "beams1_max15_min5", "beams3_max15_min5", "beams3_max30_min10", "beams3_max15_min5_rep1.5",
        "sep+2_beams1_max15_min6", "sep+2_beams3_max15_min6", "sep+4_beams1_max15_min6", "sep+4_beams3_max15_min6",
    ],
)  # fmt: skip
@torch.no_grad()
def test_the_captions_of_blip(shared: Path, name: str) -> None:
    folder = shared / "reference" / "blip" / "caption"
    model, inputs = opened(folder / "checkpoint.pth"), arrays(folder / "inputs.npz")
    words = dict(zip(("beams", "max", "min", "rep", "sep+"), [None] * 5, strict=True))
    for word in name.split("_"):
        key = next(key for key in words if word.startswith(key))
        words[key] = float(word.removeprefix(key))
    decoder, beams = model.decoder, int(words["beams"])
    decoder.head.bias[102] += words["sep+"] or 0.0
    limits = GenerationRules(
        end_id=102, pad_id=0, max_length=int(words["max"]), min_length=int(words["min"]),
        repetition_penalty=words["rep"] or 1.0,
    )  # fmt: skip
    start = (
        decoder.step,
        decoder.empty_cache(model.encode_image(Image(pixels=inputs["image"]))),
        inputs["input_ids"][:, :4],
        limits,
    )
    found = greedy_search(*start) if beams == 1 else beam_search(*start, beams=beams)
    assert found.tolist() == arrays(folder / "outputs.npz")[f"generate_{name}"].tolist()
