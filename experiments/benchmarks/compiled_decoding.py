"""Tokens per second of greedy and beam search with the decoder's growing cache, with a static one, and with compiled steps.

    python experiments/benchmarks/compiled_decoding.py [--width 768] [--layers 12] [--vocabulary 30522] [--key-value-heads 12]
        [--images 4] [--beams 1] [--length 30] [--rounds 5] [--threads 1]

Random weights; texts that never end. The three take turns, and a round starts with another one each time. Seconds are CPU seconds
of the process, so that other programs of the machine count little; those of compiling are not among them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from vlp.models.decoder.causal import CausalDecoder
from vlp.models.decoder.static_cache import CACHES, generation_steps
from vlp.models.generation import GenerationRules, beam_search, greedy_search
from vlp.structures import Tokens

MEMORY_TOKENS = 197  # of ViT-B/16


def generate(steps: Any, memory: Tokens, beams: int, length: int) -> tuple[float, list[list[int]]]:
    """CPU seconds and the texts."""
    rules = GenerationRules(end_id=0, pad_id=0, max_length=length, min_length=length + 1, repetition_penalty=2.0)
    prompt = torch.full((len(memory.states), 1), 1)
    start = time.process_time()
    arguments = steps.step, steps.empty_cache(memory), prompt, rules
    ids = greedy_search(*arguments) if beams == 1 else beam_search(*arguments, beams=beams)
    return time.process_time() - start, ids.tolist()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("width", 768), ("layers", 12), ("vocabulary", 30522), ("key-value-heads", 12), ("images", 4), ("beams", 1),
        ("length", 30), ("rounds", 5), ("threads", 1),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    decoder = CausalDecoder(
        vocabulary_size=options.vocabulary,
        memory_width=options.width,
        context_length=64,
        width=options.width,
        layers=options.layers,
        heads=12,
        key_value_heads=options.key_value_heads,
    ).eval()
    states = torch.randn(options.images, MEMORY_TOKENS, options.width)
    memory = Tokens(states=states, pooled=states[:, 0])
    programs = {name: generation_steps(decoder, cache=name, capacity=options.length) for name in CACHES}
    start = time.process_time()
    generate(programs["compiled"], memory, options.beams, options.length)
    print(f"compiling and the first text: {time.process_time() - start:.0f} CPU seconds", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in CACHES}
    texts: dict[str, list[list[int]]] = {}
    for number in range(-1, options.rounds):  # the first one warms up
        turn = number % len(CACHES)
        for name in CACHES[turn:] + CACHES[:turn]:
            measured, texts[name] = generate(programs[name], memory, options.beams, options.length)
            if number >= 0:
                seconds[name].append(measured)
    assert texts["growing"] == texts["static"] == texts["compiled"], "the caches lead to different texts"
    tokens = options.images * (options.length - 1)
    for name in CACHES:
        ratios = [growing / own for growing, own in zip(seconds["growing"], seconds[name], strict=True)]
        print(
            f"{name}: {tokens / min(seconds[name]):.0f} tokens per CPU second at best, {statistics.median(ratios):.2f} x growing "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
