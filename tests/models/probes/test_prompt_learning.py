from __future__ import annotations

import torch

from tests.models.text.test_prompts import TOWERS, model_with, tokenizer
from vlp.metrics.recall import exact_cosines
from vlp.models.probes.labelled import Labelled
from vlp.models.probes.prompt_learning import prompt_learning
from vlp.models.vlm import VisionLanguageModel
from vlp.tasks.zero_shot import embed_classes

NAMES = ("circle", "star")


def two_classes(*, exclusive: bool = True) -> Labelled:
    """Embeddings around two directions that the texts do not know."""
    torch.manual_seed(4)
    label = torch.arange(40) % 2
    features = torch.nn.functional.normalize(torch.eye(2, 5)[label] + 0.2 * torch.randn(40, 5), dim=1)
    return Labelled(features=features, targets=torch.nn.functional.one_hot(label).bool(), exclusive=exclusive)


def a_model() -> VisionLanguageModel:
    torch.manual_seed(0)
    return model_with(TOWERS["clip_end"]())


def correct(scores: torch.Tensor, data: Labelled) -> float:
    return float((scores.argmax(1) == data.targets.int().argmax(1)).double().mean())


def test_a_toy_of_two_classes_learns_and_nothing_but_the_context_changes() -> None:
    for exclusive in (True, False):
        model, data = a_model(), two_classes(exclusive=exclusive)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        first, *_, last = prompt_learning(model, tokenizer(), NAMES, exact_cosines).fit_path(data, [0, 10, 100])
        expected = exact_cosines(data.features, embed_classes(model, tokenizer(), NAMES, ["a photo of a {}"]))
        torch.testing.assert_close(first.scores(data.features), expected, rtol=0, atol=0)
        assert correct(first.scores(data.features), data) < 0.8
        assert correct(last.scores(data.features), data) > 0.95
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)
        assert all(parameter.grad is None for parameter in model.parameters())


def test_a_setting_alone_is_a_point_of_the_path() -> None:
    data = two_classes()
    small = {"batch_size": 16, "per_class": True}
    _, on_the_path, _ = prompt_learning(a_model(), tokenizer(), NAMES, exact_cosines, **small).fit_path(
        data, [0, 5, 20]
    )
    alone = prompt_learning(a_model(), tokenizer(), NAMES, exact_cosines, **small).fit(data, 5)
    torch.testing.assert_close(alone.embeds, on_the_path.embeds, rtol=0, atol=0)


def test_other_samples_are_not_taken_for_the_last_ones() -> None:
    data = two_classes()
    method = prompt_learning(a_model(), tokenizer(), NAMES, exact_cosines)
    one = method.fit(data, 5)
    other = method.fit(data.select(slice(0, 20)), 5)
    assert float((one.embeds - other.embeds).abs().max()) > 1e-4
