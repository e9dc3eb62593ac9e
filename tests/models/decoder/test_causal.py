"""The causal decoder: with its cache as without, blind to later tokens and to padding, several texts for one memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vlp.models.decoder.causal import CausalDecoder
from vlp.models.text.bert import BertText
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Text, Tokens

SIZES = {"vocabulary_size": 20, "context_length": 12, "width": 16, "layers": 2, "heads": 2, "dropout": 0.0}
MEMORY_MASK = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])


def decoder(**changes: object) -> CausalDecoder:
    torch.manual_seed(0)
    made = CausalDecoder(**SIZES | {"memory_width": 6} | changes)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def memory(rows: int = 2) -> Tokens:
    states = torch.randn(rows, 5, 6, generator=torch.Generator().manual_seed(1))
    return Tokens(states=states, pooled=states[:, 0], mask=MEMORY_MASK[:rows])


def text(*lengths: int) -> Text:
    size = max(lengths)
    ids = torch.randint(1, 20, (len(lengths), size), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(size)[None] < torch.tensor(lengths)[:, None]
    return Text(ids=ids * mask, mask=mask)


@pytest.mark.parametrize("prompt", [1, 3])
@pytest.mark.parametrize("key_value_heads", [None, 1])
@torch.no_grad()
def test_with_its_cache_as_without(prompt: int, key_value_heads: int | None) -> None:
    ours, words = decoder(start_id=7, token_types=2, key_value_heads=key_value_heads), text(6, 6)
    complete = ours(words, memory())
    logits, cache = ours.step(words.ids[:, :prompt], ours.empty_cache(memory()))
    torch.testing.assert_close(logits, complete[:, prompt - 1])
    for position in range(prompt, 6):
        logits, cache = ours.step(words.ids[:, position : position + 1], cache)
        torch.testing.assert_close(logits, complete[:, position], rtol=1e-4, atol=1e-5)
    assert cache.length == 6
    assert cache.layers[0].shape == (
        2,
        2,
        key_value_heads or 2,
        6,
        8,
    )  # the cache has as many heads as there are of keys
    with pytest.raises(ValueError, match="only the first step takes several"):
        ours.step(words.ids[:, :2], cache)


@torch.no_grad()
def test_a_token_changes_only_what_comes_after_it() -> None:
    ours, words = decoder(), text(6, 6)
    ids = words.ids.clone()
    ids[:, 3] = 19
    changed = (ours(Text(ids=ids, mask=words.mask), memory()) - ours(words, memory())).abs().amax((0, 2))
    assert changed[:3].max() < 1e-6
    assert (changed[3:] > 1e-3).all()


@torch.no_grad()
def test_padding_of_text_and_memory_changes_nothing() -> None:
    ours, words, seen = decoder(), text(6, 4), memory()
    alone = ours(
        Text(ids=words.ids[1:, :4], mask=words.mask[1:, :4]),
        Tokens(states=seen.states[1:, :2], pooled=seen.pooled[1:]),
    )
    complete = ours(words, seen)
    torch.testing.assert_close(complete[1:, :4], alone, rtol=1e-4, atol=1e-5)
    assert not complete[1, 4:].any()


@torch.no_grad()
def test_several_texts_attend_to_one_row_of_the_memory() -> None:
    ours, words, seen = decoder(), text(6, 2, 5, 3, 6, 4), memory()
    both = ours(words, seen)
    for row in range(6):
        single = Text(ids=words.ids[row : row + 1], mask=words.mask[row : row + 1])
        torch.testing.assert_close(both[row], ours(single, seen.select([row // 3]))[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"3 texts are no multiple of the memory's 2 rows"):
        ours(text(2, 2, 2), seen)


def test_the_start_token_is_the_decoders_own() -> None:
    words = text(4, 4)
    other = Text(ids=words.ids.clone().index_fill_(1, torch.tensor([0]), 9), mask=words.mask)
    ours = decoder(start_id=3)
    assert torch.equal(ours(words, memory()), ours(other, memory()))
    assert not torch.equal(decoder()(words, memory()), decoder()(other, memory()))


def test_shared_with_the_text_tower_but_for_self_attention() -> None:
    tower = BertText(**SIZES, token_types=0, memory_width=6)
    vision = nn.Identity()
    vision.width = 6
    model = VisionLanguageModel(vision=vision, text=tower, decoder=decoder(shared=True))
    own = {name for name, _ in model.named_parameters() if name.startswith("decoder.")}
    assert own
    assert all(".attention." in name or ".norm1." in name or ".head." in name for name in own)
    assert model.decoder.blocks[1].mlp is tower.blocks[1].mlp
    with pytest.raises(ValueError, match=r"text\.memory_width"):
        VisionLanguageModel(vision=vision, text=BertText(**SIZES), decoder=decoder(shared=True))
    with pytest.raises(ValueError, match="2 heads of keys and values in the text tower, 1 in decoder"):
        VisionLanguageModel(vision=vision, text=tower, decoder=decoder(shared=True, key_value_heads=1))


def test_too_long_a_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="13 tokens, prompt included, for a decoder of 12"):
        decoder()(text(13, 13), memory())
