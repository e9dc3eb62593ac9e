"""Frozen towers read at several depths, against the plain towers' own outputs, and side by side."""

from __future__ import annotations

import copy
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlp.build import ALLOWED_IN_FILES, build
from vlp.models.equal_inputs import content_keys
from vlp.models.feature_store import FeatureStore
from vlp.models.frozen_levels import FrozenLevels
from vlp.models.text.transformers import TransformersText
from vlp.models.vision.concat import ConcatTower
from vlp.models.vision.timm import TimmVision
from vlp.structures import Image, Text

PIXELS = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
CONVOLUTIONAL = ["backbone.blocks.4", "backbone.blocks.6", "backbone.bn2"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "max_position_embeddings": 12, "vocab_size": 30}


def vision(name: str = "tf_efficientnet_lite0", levels: list[str] = CONVOLUTIONAL, **changes: Any) -> FrozenLevels:
    torch.manual_seed(0)
    return FrozenLevels(tower=TimmVision(name=name, image_size=64), levels=levels, **changes)


def text(levels: list[str], **changes: Any) -> FrozenLevels:
    torch.manual_seed(0)
    return FrozenLevels(tower=TransformersText(weights=False, config=BERT, pool="mean"), levels=levels, **changes)


def texts(*lengths: int, width: int) -> Text:
    mask = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]
    return Text(ids=torch.arange(len(lengths) * width).view(-1, width) % 30 * mask, mask=mask)


def test_last_level_is_the_towers_own_mean() -> None:
    plain = TimmVision(name="tf_efficientnet_lite0", image_size=64).eval()
    ours = vision()
    ours.tower.load_state_dict(plain.state_dict())
    expected = plain(Image(pixels=PIXELS)).states.mean(1)
    found = ours(Image(pixels=PIXELS)).pooled[:, -1280:]
    torch.testing.assert_close(found, F.layer_norm(expected, (1280,)))


def test_text_levels_are_means_over_real_tokens() -> None:
    ours = text(["backbone.embeddings", "backbone.encoder.layer.1"])
    inputs = texts(5, 3, width=6)
    output = ours.tower.backbone(
        input_ids=inputs.ids, attention_mask=inputs.mask.long(), output_hidden_states=True, return_dict=True
    )
    means = [torch.stack([layer[0, :5].mean(0), layer[1, :3].mean(0)]) for layer in output.hidden_states[::2]]
    torch.testing.assert_close(ours(inputs).pooled, torch.cat([F.layer_norm(mean, (16,)) for mean in means], 1))


def test_padding_does_not_count() -> None:
    ours = text(["backbone.encoder.layer.1"], keep=10)
    ours(texts(4, width=4))
    assert len(ours._cache) == 1
    ours(Text(ids=F.pad(texts(4, width=4).ids, (0, 3)), mask=F.pad(texts(4, width=4).mask, (0, 3))))
    assert len(ours._cache) == 1


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-5), (True, 1e-2)])
def test_each_input_runs_once(bf16: bool, tolerance: float) -> None:
    ours = vision(keep=10, bf16=bf16)
    calls: list[int] = []
    ours.tower.backbone.conv_stem.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    first = ours(Image(pixels=PIXELS)).pooled
    again = ours.train()(Image(pixels=PIXELS.flip(0))).pooled
    assert calls == [3]
    torch.testing.assert_close(first, again.flip(0))
    torch.testing.assert_close(first, vision(bf16=bf16)(Image(pixels=PIXELS)).pooled, rtol=tolerance, atol=tolerance)


def test_another_run_reads_the_features_on_disk(tmp_path: Path) -> None:
    calls: list[int] = []

    def run(levels: list[str] = CONVOLUTIONAL, seed: int = 0, count: int = 3, **changes: Any) -> Tensor:
        ours = vision(levels=levels, keep=10, folder=str(tmp_path), **changes)
        torch.manual_seed(seed)
        ours.tower.backbone.conv_stem.weight.normal_()
        ours.tower.backbone.conv_stem.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
        return ours(Image(pixels=PIXELS[:count])).pooled

    first = run(count=2)
    again = run()
    assert calls == [2, 1]
    assert torch.equal(again[:2], first)
    for changes in ({"seed": 1}, {"levels": CONVOLUTIONAL[:2]}, {"bf16": True}, {"mirror": True}):
        calls.clear()
        other = run(**changes)
        assert sum(calls) == 3 * (1 + ("mirror" in changes))
        assert torch.equal(run(**changes), other)
        assert sum(calls) == 3 * (1 + ("mirror" in changes))
    assert len(list(tmp_path.glob("*.sqlite"))) == 5


def test_states_on_disk_have_the_number_of_real_tokens(tmp_path: Path) -> None:
    made = [text(["backbone.encoder.layer.1"], tokens=True, keep=9, folder=str(tmp_path)) for _ in range(2)]
    first, again = (one(texts(5, 3, width=6)) for one in made)
    assert len(list(tmp_path.glob("*.sqlite"))) == 1
    assert again.mask.sum(1).tolist() == [5, 3]
    assert torch.equal(first.states, again.states)


def test_a_caption_that_comes_twice_runs_once() -> None:
    ours, rows = text(["backbone.encoder.layer.1"], keep=9), []
    ours.tower.backbone.register_forward_hook(
        lambda _, __, inputs, ___: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    found = ours(texts(5, 3, width=6).select([0, 1, 0])).pooled
    assert rows == [2]
    assert torch.equal(found[0], found[2])


def test_other_weights_have_other_features(tmp_path: Path) -> None:
    ours, other = vision(keep=9, folder=str(tmp_path)), vision(keep=9, folder=str(tmp_path))
    with torch.no_grad():
        other.tower.backbone.conv_stem.weight.normal_()
    first, second = (one(Image(pixels=PIXELS)).pooled for one in (ours, other))
    shared = copy.deepcopy(ours)
    shared.load_state_dict(other.state_dict())
    assert torch.equal(shared(Image(pixels=PIXELS)).pooled, second)
    assert torch.equal(ours(Image(pixels=PIXELS)).pooled, first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("fault", ["garbage", "a file instead of the folder"])
def test_an_unusable_store_is_reported_once_and_not_used_again(tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "features"
    ours = vision(keep=9, folder=str(folder))
    expected = vision()(Image(pixels=PIXELS)).pooled
    if fault == "garbage":
        folder.mkdir()
        (folder / f"{ours._fingerprint.hex()}.sqlite").write_bytes(b"no table" * 1000)
    else:
        folder.write_text("")
    with pytest.warns(UserWarning, match="cannot be used .*: features are computed") as warnings:
        torch.testing.assert_close(ours(Image(pixels=PIXELS)).pooled, expected)
    assert len(warnings) == 1


def test_pixels_of_another_shape_are_another_picture() -> None:
    wide, tall = (Image(pixels=torch.zeros(1, 3, *shape, dtype=torch.uint8)) for shape in ((32, 64), (64, 32)))
    assert content_keys(wide) != content_keys(tall)


@pytest.mark.slow
def test_processes_share_a_store(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_write, [tmp_path] * 8, range(8)))
    store = FeatureStore(tmp_path, "shared", width=5, dtype=torch.half)
    found = store.read(bytes([key]) for key in range(100))
    assert sorted(found) == [bytes([key]) for key in range(15)]
    assert all(torch.equal(rows, torch.full((2, 5), key[0], dtype=torch.half)) for key, rows in found.items())


def _write(folder: Path, start: int) -> None:
    store = FeatureStore(folder, "shared", width=5, dtype=torch.half)
    for key in range(start, start + 8):
        store.write({bytes([key]): torch.full((2, 5), key, dtype=torch.half)})


def test_keeps_no_more_than_keep_and_a_copy_shares_it() -> None:
    ours = vision(keep=2)
    ours(Image(pixels=PIXELS))
    assert len(ours._cache) == 2
    assert copy.deepcopy(ours)._cache is ours._cache


@pytest.mark.parametrize("keep", [0, 10])
def test_cells_of_all_levels_are_joined(keep: int) -> None:
    ours = vision(tokens=True, cells=2, keep=keep)
    outputs = {}
    for level in CONVOLUTIONAL:
        ours.tower.get_submodule(level).register_forward_hook(
            lambda _, __, output, level=level: outputs.update({level: output})
        )
    found = ours(Image(pixels=PIXELS))
    cells = [F.adaptive_avg_pool2d(outputs[level][1], 2).flatten(1).T for level in CONVOLUTIONAL]
    assert found.grid == (2, 2)
    torch.testing.assert_close(found.states[1], torch.cat([F.layer_norm(cell, cell.shape[1:]) for cell in cells], 1))
    torch.testing.assert_close(found.pooled, vision()(Image(pixels=PIXELS)).pooled)


@pytest.mark.parametrize("keep", [0, 10])
def test_words_of_all_levels_are_joined(keep: int) -> None:
    levels = ["backbone.embeddings", "backbone.encoder.layer.1"]
    ours, inputs = text(levels, tokens=True, keep=keep), texts(5, 3, width=8)
    output = ours.tower.backbone(
        input_ids=inputs.ids, attention_mask=inputs.mask.long(), output_hidden_states=True, return_dict=True
    )
    states = torch.cat([F.layer_norm(layer, (16,)) for layer in output.hidden_states[::2]], 2)
    found = ours(inputs)
    assert found.mask.sum(1).tolist() == [5, 3]
    assert found.ids.shape == found.mask.shape == (2, 5)
    torch.testing.assert_close(found.states[found.mask], states[inputs.mask])
    torch.testing.assert_close(found.pooled, text(levels)(inputs).pooled)


def test_rasters_of_different_sizes_need_cells() -> None:
    with pytest.raises(ValueError, match="give cells"):
        vision(levels=["backbone.blocks.2", "backbone.blocks.6"], tokens=True)


def test_concat_joins_states_of_equal_grids() -> None:
    both = ConcatTower(
        towers=[vision(tokens=True, cells=2), vision("resnet10t", ["backbone.layer4"], tokens=True, cells=2)],
        image_size=64,
        join_states=True,
    ).eval()
    found = both(Image(pixels=PIXELS))
    assert found.states.shape == (3, 4, both.states_width) == (3, 4, both.width)
    first = both.towers[0](Image(pixels=PIXELS))
    torch.testing.assert_close(found.states[..., : both.towers[0].width], first.states)
    assert found.grid == (2, 2)


def test_concat_of_different_grids_is_an_error() -> None:
    towers = [vision(tokens=True, cells=2), vision(tokens=True, cells=3)]
    with pytest.raises(ValueError, match=r"\(2, 2\), \(3, 3\)"):
        ConcatTower(towers=towers, image_size=64, join_states=True)(Image(pixels=PIXELS))


def test_no_parameter_is_trained() -> None:
    ours = vision().train()
    assert not any(module.training for module in ours.tower.modules())
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    assert not ours(Image(pixels=PIXELS)).pooled.requires_grad


def test_mirror_and_resizing() -> None:
    ours = vision(mirror=True, image_size=32)
    small = PIXELS[..., :32, :32]
    torch.testing.assert_close(
        ours(Image(pixels=small)).pooled, ours(Image(pixels=small.flip(-1))).pooled, rtol=1e-2, atol=2e-3
    )
    assert ours.image_size == 32


@pytest.mark.parametrize("levels", [[], ["backbone.blocks.9"]])
def test_unknown_levels_are_an_error(levels: list[str]) -> None:
    with pytest.raises(ValueError, match=r"among its modules are backbone"):
        vision(levels=levels)


def test_concat_is_rebuilt_from_a_file_without_weights() -> None:
    both = ConcatTower(
        towers=[vision(), vision("resnet10t", ["backbone.layer3", "backbone.layer4"])], image_size=64
    ).eval()
    config = {"_target_": "vlp.models.vision.concat.ConcatTower", "image_size": 64} | both.architecture()
    again = build(config, allow=ALLOWED_IN_FILES).eval()
    again.load_state_dict(both.state_dict())
    assert both(Image(pixels=PIXELS)).pooled.shape == (3, both.width) == (3, 112 + 320 + 1280 + 256 + 512)
    torch.testing.assert_close(again(Image(pixels=PIXELS)).pooled, both(Image(pixels=PIXELS)).pooled)


def test_cached_features_do_not_depend_on_earlier_inputs() -> None:
    """With deterministic algorithms: a run that is killed and resumed asks for other inputs at once than one that was not."""
    torch.use_deterministic_algorithms(True)
    rows: list[int] = []
    ours = vision(keep=9)
    ours.tower.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0].pixels)))
    together = ours(Image(pixels=PIXELS)).pooled
    alone = torch.cat([vision(keep=9)(Image(pixels=PIXELS[[index]])).pooled for index in (2, 0, 1)])
    assert set(rows) == {1}
    assert torch.equal(together, alone[[1, 2, 0]])
