from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vlp.models.frozen_levels import FrozenLevels
from vlp.models.projection.linear import LinearProjection
from vlp.models.text.bert import BertText
from vlp.models.text.clip_text import ClipText
from vlp.models.text.prompts import LearnedPrompts
from vlp.models.text.transformers import TransformersText
from vlp.models.vlm import VisionLanguageModel
from vlp.tasks.zero_shot import embed_classes
from vlp.tokenizers.trained import TrainedTokenizer

NAMES = ("red circle", "blue square", "star", "red circle")  # two classes of one name, and names of different lengths
SIZE: dict[str, Any] = {"vocabulary_size": 300, "context_length": 32, "width": 16, "layers": 2, "heads": 2}
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def of_transformers(**settings: Any) -> TransformersText:
    return TransformersText(config=BERT | {"vocab_size": 300} | settings, weights=False)


TOWERS: dict[str, Any] = {
    "bert": lambda: BertText(**SIZE),
    "clip_argmax": lambda: ClipText(**SIZE, pool="argmax"),
    "clip_end": lambda: ClipText(**SIZE),
    "clip_eot": lambda: ClipText(**SIZE, pool="eot", eot_id=299),
    "siglip": lambda: ClipText(**SIZE, causal=False, pool="last"),
    "coca": lambda: ClipText(**SIZE, class_token=True),
    "transformers": of_transformers,
    "roberta": lambda: of_transformers(model_type="roberta", max_position_embeddings=40, pad_token_id=0),
    "frozen": lambda: FrozenLevels(tower=of_transformers(), levels=["backbone.encoder.layer.0"], keep=10),
}


def tokenizer() -> TrainedTokenizer:
    found = TrainedTokenizer(size=300, context_length=32)
    found.train(["a photo of the red circle", "a photo of a blue square", "a star here"])
    return found


def model_with(tower: nn.Module) -> VisionLanguageModel:
    projection = LinearProjection(image_width=8, text_width=tower.width, width=5)
    return VisionLanguageModel(text=tower, vision=nn.Identity(), projection=projection).eval()


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("per_class", [False, True])
def test_any_text_tower_starts_at_zero_shot_and_only_the_context_has_a_gradient(kind: str, per_class: bool) -> None:
    torch.manual_seed(0)
    model = model_with(TOWERS[kind]())
    prompts = LearnedPrompts(model, tokenizer(), NAMES, template="a photo of a {} here", per_class=per_class)
    embeds = prompts.embed(model)
    torch.testing.assert_close(
        embeds, embed_classes(model, tokenizer(), NAMES, ["a photo of a {} here"]), rtol=0, atol=0
    )
    assert prompts.context.shape[0] == (3 if per_class else 1)
    (gradient,) = torch.autograd.grad((embeds @ torch.randn(5)).square().sum(), [prompts.context])
    assert (gradient.abs().sum((1, 2)) > 0).all()  # the context of each name, or of all
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        prompts.context[0] += 0.5 * torch.randn_like(prompts.context[0])
    changed = (prompts.embed(model) - embeds).abs().amax(1) > 1e-5
    assert changed.tolist() == ([True, False, False, True] if per_class else [True] * 4)
    plain = embed_classes(model, tokenizer(), NAMES, ["a photo of a {} here"])
    torch.testing.assert_close(plain, embeds, rtol=0, atol=0)  # the tower is as it was


def test_random_vectors_may_be_any_number() -> None:
    model = model_with(TOWERS["clip_end"]())
    for template in ("a photo of a {}", "{}"):
        prompts = LearnedPrompts(model, tokenizer(), NAMES, template=template, vectors=7, seed=3)
        assert prompts.context.shape == (1, 7, 16)
        assert 0.01 < float(prompts.context.std()) < 0.03
        assert prompts.embed(model).shape == (4, 5)
    again = LearnedPrompts(model, tokenizer(), NAMES, vectors=7, seed=3)
    torch.testing.assert_close(again.context, prompts.context, rtol=0, atol=0)


def test_mistakes() -> None:
    model = model_with(TOWERS["clip_end"]())
    for options, message in (
        ({"template": "{} here"}, "needs words before {}, which the vectors start as"),
        ({"template": "a photo of"}, "needs words before"),
        ({"template": "a photo of", "vectors": 2}, "has no {} for the name"),
        ({"vectors": 40}, "too long for a text tower of 32: learn fewer vectors"),
    ):
        with pytest.raises(ValueError, match=message):
            LearnedPrompts(model, tokenizer(), NAMES, **options)
    with pytest.raises(ValueError, match="Identity has no module `embedding`"):
        LearnedPrompts(VisionLanguageModel(text=nn.Identity()), tokenizer(), NAMES)
