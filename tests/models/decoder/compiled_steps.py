"""Compiled decoding against eager decoding, as one process that prints JSON.

    python -m tests.models.decoder.compiled_steps

Without the shape checks of the test run, which dynamo cannot follow.
"""

from __future__ import annotations

import json
import logging

import torch
from torch import nn

from vlp.models.decoder.causal import CausalDecoder
from vlp.models.decoder.static_cache import StaticSteps, static_step
from vlp.models.generation import GenerationRules, beam_search, greedy_search
from vlp.structures import Tokens

LENGTHS = (6, 9, 14)


def make_decoder() -> CausalDecoder:
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 40, "context_length": 16, "width": 32, "layers": 2, "heads": 4, "key_value_heads": 2}
    decoder = CausalDecoder(memory_width=6, dropout=0.0, start_id=3, **sizes)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return decoder.eval()


class Exported(nn.Module):
    def __init__(self, decoder: CausalDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, ids, position, layers, memory):  # type: ignore[no-untyped-def]
        return static_step(self.decoder, ids, position, layers, memory, None)


@torch.no_grad()
def main() -> None:
    decoder = make_decoder()
    states = torch.randn(3, 5, 6)
    memory = Tokens(states=states, pooled=states[:, 0])
    eager, compiled = (StaticSteps(decoder, capacity=16, compiled=flag) for flag in (False, True))
    result: dict[str, object] = {}
    counters = torch._dynamo.utils.counters
    ids = torch.randint(1, 40, (3, 2), generator=torch.Generator().manual_seed(1))
    one, other = eager.empty_cache(memory), compiled.empty_cache(memory)
    differences = []
    for _ in range(12):
        (wanted, one), (found, other) = eager.step(ids, one), compiled.step(ids, other)
        differences.append(float((wanted - found).abs().max()))
        ids = wanted.argmax(1, keepdim=True)
    result["difference"] = max(differences)
    result["graphs of 12 lengths"] = counters["stats"]["unique_graphs"]
    for search, options in ((greedy_search, {}), (beam_search, {"beams": 3})):
        for length in LENGTHS:
            rules = GenerationRules(end_id=39, pad_id=0, max_length=length, repetition_penalty=2.0)
            prompt = torch.full((3, 1), 5)
            texts = [
                search(steps.step, steps.empty_cache(memory), prompt, rules, **options).tolist()
                for steps in (decoder, eager, compiled)
            ]
            result[f"{search.__name__} {length}"] = texts
        result[f"graphs after {search.__name__}"] = counters["stats"]["unique_graphs"]
    cache = eager.empty_cache(memory)
    _, cache = eager.step(torch.full((3, 1), 5), cache)
    inputs = (torch.full((3, 1), 7), torch.tensor([1]), cache.layers, cache.memory.layers)
    program = torch.export.export(Exported(decoder), inputs, strict=False).module()
    exported = []
    for position in (1, 8):
        at = (inputs[0], torch.tensor([position]), *inputs[2:])
        exported.append(float((program(*at)[0] - static_step(decoder, *at, None)[0]).abs().max()))
    result["exported"] = max(exported)
    print(json.dumps(result))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
