from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.processes import run_processes
from tests.tasks.test_probe import colours
from tests.towers import toy_model
from vlp.data.images import open_photo
from vlp.models.split_features import class_targets, split_features
from vlp.structures import Image


def test_features_and_classes_are_in_the_order_of_the_split(tmp_path: Path) -> None:
    data, model = colours(tmp_path, eval_batch_size=4), toy_model().eval()
    found = split_features(model, data, "val", kinds=["pooled", "embed"])
    for row, sample in enumerate(data.split("val")):
        pixels = data.transform["eval"].render(open_photo(sample.image), 0)[0][None]
        tokens = model.encode_image(Image(pixels=pixels))
        torch.testing.assert_close(found["pooled"].features[row], tokens.pooled[0].detach())
        torch.testing.assert_close(found["embed"].features[row], model.embed_image(tokens)[0].detach())
        assert int(found["pooled"].targets[row].int().argmax()) == sample.label
    assert found["pooled"].exclusive


def _rank_features(rank: int, world: int, folder: str) -> torch.Tensor:
    return split_features(toy_model().eval(), colours(Path(folder)), "train")["pooled"].features


@pytest.mark.slow
def test_ranks_share_the_work(tmp_path: Path) -> None:
    expected = _rank_features(0, 1, str(tmp_path / "data"))
    for features in run_processes(3, _rank_features, tmp_path / "out", str(tmp_path / "data")):
        torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)


def test_several_classes_and_unknown_ones(tmp_path: Path) -> None:
    known, targets, exclusive = class_targets(colours(tmp_path, several=True), "val")
    assert not exclusive
    assert bool(known.all())
    assert targets[1].tolist() == [True, True, False]


def test_mistakes(tmp_path: Path) -> None:
    data = colours(tmp_path)
    data.class_names = ()
    with pytest.raises(ValueError, match="has no class names"):
        split_features(toy_model().eval(), data, "val")
    with pytest.raises(ValueError, match="choose pooled"):
        split_features(toy_model().eval(), colours(tmp_path), "val", kinds=["states"])
