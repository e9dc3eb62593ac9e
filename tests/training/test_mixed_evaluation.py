from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tasks.test_label_efficiency import model_with_words, spelling
from vlp.predictor import Predictor
from vlp.tasks.classification import Classification
from vlp.tasks.zero_shot import embed_classes
from vlp.training.mixed_evaluation import draw_mix_curves, first_state, measure_mixes
from vlp.training.module import VisionLanguageModule

NAMES, TEMPLATES = ("red", "green"), ["a {}"]


def fine_tuned() -> tuple[Predictor, VisionLanguageModule]:
    """A model, and one whose weights are larger by 1 with a head that is all 3."""
    first, second = model_with_words(), model_with_words()
    head = Classification(templates=TEMPLATES, class_names=NAMES, feature_width=5)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter += 1
        head.linear.weight.fill_(3.0)
        head.initialised.fill_(True)
    predictor = Predictor(model=first, objectives=torch.nn.ModuleDict(), tokenizer=spelling())
    return predictor, VisionLanguageModule(model=second, objectives={}, tasks={"classification": head})


def test_every_share_is_measured_and_the_second_weights_come_back() -> None:
    predictor, module = fine_tuned()
    start = first_state(predictor, module)
    embeds = embed_classes(predictor.model, spelling(), NAMES, TEMPLATES)
    torch.testing.assert_close(start["objectives.classification.linear.weight"], embeds)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    name = "model.vision.net.0.weight"

    def measure() -> dict[str, float | None]:
        state = module.state_dict()
        moved = float((state[name] - start[name]).mean())
        head = float((state["objectives.classification.linear.weight"] - embeds).sum() / (3 - embeds).sum())
        return {"test/x/classification/top1": moved, "test/x/classification/top5": head, "test/samples": 4.0}

    results = measure_mixes(module, start, [0, 0.25, 1], measure)
    for share in (0, 0.25, 1):
        assert results[f"test/x/classification/top1_mix_{share}"] == pytest.approx(share, abs=1e-6)
        assert results[f"test/x/classification/top5_mix_{share}"] == pytest.approx(share, abs=1e-5)
    assert results["test/samples"] == 4.0
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_only_figures_of_accuracy_are_drawn(tmp_path: Path) -> None:
    results = {"test/x/zero_shot/top1_mix_0": 10.0, "test/x/zero_shot/top1_mix_1": 20.0, "seconds": 1.0}
    path = draw_mix_curves(results, tmp_path / "curve.png")
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")
    assert draw_mix_curves({"test/x/zero_shot/images_mix_0": 4.0}, tmp_path / "none.png") is None
