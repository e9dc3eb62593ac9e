"""A cache of one size gives what the growing one gives, eager and compiled, and is never compiled again for a length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.models.decoder.test_causal import decoder, memory, text
from vlp.models.decoder.static_cache import StaticSteps, generation_steps
from vlp.models.generation import GenerationRules, beam_search, greedy_search, sample_nucleus
from vlp.system.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("prompt", [1, 3])
@pytest.mark.parametrize("key_value_heads", [None, 1])
@torch.no_grad()
def test_the_logits_of_the_growing_cache(prompt: int, key_value_heads: int | None) -> None:
    ours, words = decoder(start_id=7, token_types=2, key_value_heads=key_value_heads), text(6, 6)
    steps = StaticSteps(ours, capacity=9)
    growing, static = ours.empty_cache(memory()), steps.empty_cache(memory())
    for start, end in ((0, prompt), *((position, position + 1) for position in range(prompt, 6))):
        ids = words.ids[:, start:end]
        (expected, growing), (found, static) = ours.step(ids, growing), steps.step(ids, static)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (static.length, static.capacity) == (6, 9)
    assert static.layers[0].shape == (2, 2, key_value_heads or 2, 9, 8)


@torch.no_grad()
def test_a_step_leaves_its_cache_as_it_was() -> None:
    ours, words = decoder(), text(4, 4)
    steps = StaticSteps(ours, capacity=8)
    _, cache = steps.step(words.ids[:, :2], steps.empty_cache(memory()))
    before = [layer.clone() for layer in cache.layers]
    first, _ = steps.step(words.ids[:, 2:3], cache)
    steps.step(words.ids[:, 3:4], cache)
    assert cache.length == 2
    assert all(torch.equal(layer, old) for layer, old in zip(cache.layers, before, strict=True))
    assert torch.equal(steps.step(words.ids[:, 2:3], cache)[0], first)


@pytest.mark.parametrize("search", ["greedy", "beams", "nucleus"])
@torch.no_grad()
def test_every_search_finds_the_same_texts(search: str) -> None:
    ours, rules = decoder(start_id=7), GenerationRules(end_id=19, pad_id=0, max_length=12, repetition_penalty=2.0)
    found = []
    for cache in ("growing", "static"):
        steps = generation_steps(ours, cache=cache, capacity=rules.max_length)
        arguments = steps.step, steps.empty_cache(memory()), torch.tensor([[5, 2], [9, 4]]), rules
        if search == "greedy":
            ids = greedy_search(*arguments)
        elif search == "beams":
            ids = beam_search(*arguments, beams=3)
        else:
            ids = sample_nucleus(*arguments, top_p=0.9, seeds=torch.tensor([3, 4]))
        found.append(ids.tolist())
    assert found[0] == found[1]
    assert len({token for row in found[0] for token in row}) > 5


def test_what_does_not_fit_is_one_sentence() -> None:
    steps = StaticSteps(decoder(), capacity=40)
    cache = steps.empty_cache(memory())
    assert cache.capacity == 12  # the decoder's own limit
    with pytest.raises(UserError, match="texts of 13 tokens, prompt included, for a cache of 12: lower max_length"):
        steps.step(text(13, 13).ids, cache)
    with pytest.raises(UserError, match="cache=fast: choose one of growing, static, compiled"):
        generation_steps(decoder(), cache="fast", capacity=3)
    with pytest.raises(UserError, match=r"Linear keeps no keys and values.*set cache=growing"):
        generation_steps(torch.nn.Linear(1, 1), cache="static", capacity=3)


@pytest.mark.slow
def test_compiled_steps_give_eagers_tokens_and_one_graph_for_all_lengths() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.models.decoder.compiled_steps"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["difference"] < 1e-5
    assert result["exported"] < 1e-5
    assert result["graphs of 12 lengths"] == result["graphs after greedy_search"] == 1
    assert result["graphs after beam_search"] == 2  # one more, for as many rows as there are beams
    for search in ("greedy_search", "beam_search"):
        for length in (6, 9, 14):
            growing, static, compiled = result[f"{search} {length}"]
            assert growing == static == compiled
            assert max(len(row) for row in growing) == length
