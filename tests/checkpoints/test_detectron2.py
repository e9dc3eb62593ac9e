"""Detectron2's files of each layout, against its own numbers and against a network put together from torchvision's blocks."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import roi_align

import vlp
from tests.checkpoints.detectron2_files import (
    FC,
    LAYERS,
    caffe2_state,
    trunk_of,
    write_pickle,
    zoo_state,
)  # fmt: skip
from tests.checkpoints.fixtures import arrays
from vlp.checkpoints import detectron2, load, tensor_files
from vlp.checkpoints.agreement import check_function
from vlp.checkpoints.convert import convert
from vlp.checkpoints.detectron2_keys import TRUNK_ROWS, to_zoo_names
from vlp.checkpoints.detectron2_preparation import FAIR_RESNEXT, MSRA, Preparation, read_preparation
from vlp.checkpoints.keys import to_theirs, without_prefix
from vlp.models.dense.regions import LEVELS
from vlp.models.vision.torchvision import TorchvisionVision
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image
from vlp.system.errors import UserError

ZOO = {"__author__": "Detectron2 Model Zoo"}


@pytest.fixture(autouse=True)
def _without_warnings(recwarn: pytest.WarningsRecorder) -> None:
    """Of assumed settings and of what is left; a test of its own reads them."""
    warnings.simplefilter("ignore")


def maps_of(path: Path, pixels: Tensor) -> list[Tensor]:
    """pixels: normalised, RGB."""
    model = load.build_model(load.read(path, {}))
    with torch.no_grad():
        return list(model.encode_image(Image(pixels=pixels), levels=LEVELS).levels.values())


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.parametrize("name", ["mask_rcnn_R_50_FPN", "faster_rcnn_X_101_like"])
def test_the_numbers_of_detectron2(shared: Path, name: str, suffix: str) -> None:
    folder = shared / "reference" / "detectron2"
    expected = arrays(folder / f"{name}.npz")
    stored = [expected[f"bottom_up_res{stage}"] for stage in (2, 3, 4, 5)]
    predictor = vlp.load(folder / f"{name}{suffix}")
    regions, backbone = predictor.objectives["regions"], predictor.model.vision.backbone
    predictor.model.double()
    regions.double()
    boxes, preprocessed = [expected["boxes"].double()], expected["preprocessed"].double()
    with torch.no_grad():
        rgb = Image(pixels=preprocessed.flip(1))
        maps = list(predictor.model.encode_image(rgb, levels=LEVELS).levels.values())
        for ours, theirs in zip(maps, stored, strict=True):  # channels are added in another order
            assert_near(ours, theirs)
        assert_near(regions(maps, boxes), expected["region_features"])
        backbone.conv1.weight.copy_(backbone.conv1.weight.flip(1))  # and in its own
        bgr = Image(pixels=preprocessed)
        maps = list(predictor.model.encode_image(bgr, levels=LEVELS).levels.values())
        for ours, theirs in zip(maps, stored, strict=True):
            assert_near(ours, theirs)
        for level, ours in enumerate(regions.pyramid(maps), start=2):
            assert_near(ours, expected[f"fpn_p{level}"])
        assert_near(regions(maps, boxes), expected["region_features"])


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    """To 1.1e-6 of the largest value, as the stored numbers are of single precision; ours of double are equal on every CPU."""
    torch.testing.assert_close(ours, theirs.double(), atol=1.1e-6 * float(theirs.abs().max()), rtol=0)


@pytest.mark.parametrize("name", ["mask_rcnn_R_50_FPN", "faster_rcnn_X_101_like"])
def test_pixels_are_prepared_as_detectron2_does(shared: Path, name: str) -> None:
    folder = shared / "reference" / "detectron2"
    expected = arrays(folder / f"{name}.npz")
    model = load.build_model(load.read(folder / f"{name}.pkl", {}))
    ours = model.vision.normalize(Image(pixels=expected["image_bgr"].flip(0)[None]))
    torch.testing.assert_close(ours, expected["preprocessed"][..., :130].flip(1), atol=1e-4, rtol=1e-6)


def test_names_of_the_zoo_and_of_caffe2(shared: Path) -> None:
    folder = shared / "reference" / "detectron2"
    names = json.loads((folder / "caffe2_names.json").read_text())
    content = {name: torch.full((1,), float(index)) for index, name in enumerate(names)}
    renamed = to_zoo_names(content)
    order = {f"backbone.bottom_up.{theirs}": float(index) for index, theirs in enumerate(names.values())}
    assert {name: float(value) for name, value in renamed.items()} == order
    assert len(order) == 159
    zoo = json.loads((folder / "model_zoo_keys.json").read_text())
    towers = {}
    for model in (name for name in zoo if "#" not in name):
        with torch.device("meta"):
            state = {key: torch.empty(shape) for key, shape in zoo[model].items()}
        trunk, rest = detectron2.read_trunk(to_zoo_names({"model": state}), Path(model))
        sizes = detectron2.resnet_sizes(trunk, Path(model))
        key = tuple(tuple(value) if isinstance(value, list) else value for value in sizes.values())
        towers[model] = detectron2.NAMES[key]
        with torch.device("meta"):
            own = torchvision.models.get_model(towers[model]).state_dict()
        assert {key: value.shape for key, value in trunk.items()} == {
            key: value.shape for key, value in own.items() if not key.startswith("fc.")
        }
        has_box_head = "roi_heads.box_head.fc1.weight" in rest
        regions, _ = detectron2.read_regions(rest)
        assert bool(regions) == has_box_head
        expected = zoo[f"{model}#input"]
        guessed = FAIR_RESNEXT if sizes["groups"] > 1 else MSRA
        assert guessed == Preparation(
            expected["format"], tuple(expected["mean"]), tuple(expected["std"]), expected["stride_in_1x1"]
        )
    assert sorted(towers.values()) == ["resnet50"] * 4 + ["resnext101_32x8d"]


def _plain_maps(state: dict[str, Tensor], pixels: Tensor, *, in_1x1: bool) -> list[Tensor]:
    """The same network, computed with functions."""

    def convolution(name: str, x: Tensor, stride: int, padding: int, groups: int = 1) -> Tensor:
        x = nn.functional.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding, groups=groups)
        scale = state[f"{name}.norm.weight"]
        mean = state.get(f"{name}.norm.running_mean", torch.zeros_like(scale))
        variance = state.get(f"{name}.norm.running_var", torch.ones_like(scale))
        return nn.functional.batch_norm(x, mean, variance, scale, state[f"{name}.norm.bias"])

    x = nn.functional.max_pool2d(convolution("stem.conv1", pixels, 2, 3).relu(), 3, 2, 1)
    maps = []
    for stage, count in enumerate(LAYERS):
        for number in range(count):
            name, stride = f"res{stage + 2}.{number}", 2 if stage and not number else 1
            first, second = (stride, 1) if in_1x1 else (1, stride)
            inner = convolution(f"{name}.conv1", x, first, 0).relu()
            inner = convolution(f"{name}.conv2", inner, second, 1, groups=2).relu()
            shortcut = x if f"{name}.shortcut.weight" not in state else convolution(f"{name}.shortcut", x, stride, 0)
            x = (convolution(f"{name}.conv3", inner, 1, 0) + shortcut).relu()
        maps.append(x)
    return maps


PIXELS = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", ["zoo", "zoo.pth", "training.pth", "imagenet", "caffe2", "blobs", "python 2"])
def test_every_layout(tmp_path: Path, layout: str) -> None:
    caffe2 = layout in ("caffe2", "blobs", "python 2")
    state = zoo_state(folded=caffe2)
    trunk = trunk_of(state)
    is_rgb = layout == "imagenet"
    pixels = PIXELS if is_rgb else PIXELS.flip(1)
    expected = _plain_maps(trunk, pixels, in_1x1=False)
    path = tmp_path / ("weights.pth" if layout.endswith(".pth") else "weights.pkl")
    old = caffe2_state(state)
    momenta = {f"{key}_momentum": torch.ones_like(value) for key, value in old.items()}
    if layout == "zoo":
        write_pickle(path, {"model": state, **ZOO})
    elif layout == "zoo.pth":
        torch.save({"model": state, "iteration": 3}, path)
    elif layout == "training.pth":
        torch.save(
            {"model": state, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}, "iteration": 3}, path
        )
    elif layout == "imagenet":
        write_pickle(
            path,
            {
                "model": trunk | {"stem.fc.weight": torch.ones(2, 2)},
                "__author__": "torchvision",
                "matching_heuristics": True,
            },
        )
    elif layout == "caffe2":
        write_pickle(path, old | momenta | {"pred_w": torch.ones(2, 2)}, protocol=2, old_numpy=True)
    elif layout == "blobs":
        write_pickle(path, {"blobs": old | momenta, "cfg": "text"}, protocol=2)
    else:
        write_pickle(path, {"blobs": old}, protocol=2, python_2=True)
    for ours, theirs in zip(maps_of(path, PIXELS), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    heads = load.read(path, {}).heads
    if is_rgb:
        assert not heads
    else:
        prefixes = {"regions.fpn": "backbone.fpn", "regions.fc": "roi_heads.box_head.fc"}
        for key, value in heads.items():
            old_prefix, new = next((old, new) for old, new in prefixes.items() if key.startswith(old))
            assert torch.equal(value, state[new + key.removeprefix(old_prefix)])
        assert len(heads) == 20


def test_strides_in_the_first_convolution_by_the_config_beside(tmp_path: Path) -> None:
    state = zoo_state()
    path = write_pickle(tmp_path / "model.pkl", {"model": state, **ZOO})
    config = "MODEL: {PIXEL_MEAN: [1.0, 2.0, 3.0], PIXEL_STD: [4.0, 5.0, 6.0], RESNETS: {STRIDE_IN_1X1: true}}\n"
    (tmp_path / "config.yaml").write_text(config + "INPUT: {FORMAT: BGR}\n")
    for ours, theirs in zip(
        maps_of(path, PIXELS), _plain_maps(trunk_of(state), PIXELS.flip(1), in_1x1=True), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    vision = load.read(path, {}).config["model"]["vision"]
    assert (vision["mean"], vision["std"]) == ([3 / 255, 2 / 255, 1 / 255], [6 / 255, 5 / 255, 4 / 255])
    assert not load.read(path, {}).assumed
    (tmp_path / "config.yaml").write_text("INPUT: {FORMAT: RGB}\n_BASE_: base.yml\n")
    (tmp_path / "base.yml").write_text("MODEL: {PIXEL_MEAN: [9, 8, 7]}\n")
    read = read_preparation(tmp_path / "config.yaml")
    assert read == Preparation("RGB", (9.0, 8.0, 7.0), (1.0, 1.0, 1.0), True)
    lazy = "model: {pixel_mean: [1, 2, 3], input_format: RGB, backbone: {bottom_up: {stages: {stride_in_1x1: false}}}}"
    (tmp_path / "config.yaml").write_text(lazy)
    assert read_preparation(tmp_path / "config.yaml") == Preparation("RGB", (1.0, 2.0, 3.0), (1.0, 1.0, 1.0), False)
    (tmp_path / "config.yaml").write_text("model: {vision: {width: 3}}\n")  # of another program
    assert read_preparation(tmp_path / "config.yaml") is None
    assert "BGR" in load.read(path, {}).assumed["mean"]
    (tmp_path / "config.yaml").write_text("INPUT: {FORMAT: YUV}\nMODEL: {}\n")
    with pytest.raises(UserError, match="format YUV"):
        load.read(path, {})
    (tmp_path / "config.yaml").write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read as YAML"):
        load.read(path, {})


def test_region_features_by_the_formula(tmp_path: Path) -> None:
    state = zoo_state()
    path = write_pickle(tmp_path / "model.pkl", {"model": state, **ZOO})
    predictor = vlp.load(path)
    regions = predictor.objectives["regions"]
    maps = maps_of(path, PIXELS)
    boxes = [torch.tensor([[2.0, 3.0, 90.0, 61.0], [0.0, 0.0, 9.0, 9.5]]), torch.tensor([[10.0, 10.0, 40.0, 30.0]])]
    with torch.no_grad():
        features = regions(maps, boxes)
        p2 = regions.pyramid(maps)[0]  # all boxes are small
        rows = [torch.cat([torch.tensor([float(image)]), box]) for image, own in enumerate(boxes) for box in own]
        pooled = roi_align(p2, torch.stack(rows), 7, 0.25, aligned=True).flatten(1)
        for number in (1, 2):
            weight, bias = (state[f"roi_heads.box_head.fc{number}.{kind}"] for kind in ("weight", "bias"))
            pooled = nn.functional.linear(pooled, weight, bias).relu()
    assert features.shape == (3, FC)
    torch.testing.assert_close(features, pooled)


def test_what_is_left_and_assumed_is_named(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "model.pkl", {"model": zoo_state(), **ZOO})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        vlp.load(path)
    text = " | ".join(str(warning.message) for warning in seen)
    assert "2 of its tensors are not used: proposal_generator.rpn_head (1), roi_heads.box_predictor (1)" in text
    assert (
        "assumed: BGR pixels of mean 103.53, 116.28, 123.675; of deviation 57.375, 57.12, 58.395; stages that stride"
        in text
    )


def test_backbones_that_are_no_resnet_are_refused(tmp_path: Path) -> None:
    state = zoo_state()
    deformable = state | {"backbone.bottom_up.res3.0.conv2_offset.weight": torch.ones(1)}
    with pytest.raises(UserError, match=r"conv2_offset\.weight\), which no ResNet"):
        load.read(write_pickle(tmp_path / "a.pkl", {"model": deformable}), {})
    three = {key: value for key, value in state.items() if ".res5." not in key}
    with pytest.raises(UserError, match="no ResNet of four stages"):
        load.read(write_pickle(tmp_path / "b.pkl", {"model": three}), {})
    both = {f"student.{key}": value for key, value in state.items()} | {
        f"teacher.{key}": value for key, value in state.items()
    }
    with pytest.raises(UserError, match=r"several backbones, below student\.backbone\.bottom_up\., teacher"):
        load.read(write_pickle(tmp_path / "c.pkl", {"model": both}), {})
    with pytest.raises(UserError, match="takes no vision_heads"):
        load.read(write_pickle(tmp_path / "d.pkl", {"model": state}), {"vision_heads": 3})
    without = {key.replace("backbone.bottom_up.res5", "roi_heads.res5").replace("backbone.bottom_up", "backbone"): value
               for key, value in state.items() if "fpn" not in key and "box_head" not in key}  # fmt: skip
    assert not load.read(write_pickle(tmp_path / "e.pkl", {"model": without}), {}).heads


def test_a_file_that_runs_a_command_is_refused(tmp_path: Path) -> None:
    class Command:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'run'}",)

    for protocol in (2, 4):
        path = write_pickle(tmp_path / "model.pkl", {"model": zoo_state(), "__author__": Command()}, protocol=protocol)
        with pytest.raises(UserError, match=r"model\.pkl names \w+\.system, which could run code"):
            vlp.load(path)
    assert not (tmp_path / "run").exists()


def test_torchvision_towers_take_weights_and_their_settings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet50().eval()
    rows = {row.ours: row.theirs for row in TRUNK_ROWS}
    assert len(rows) == len(TRUNK_ROWS)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    theirs = to_theirs({key: value for key, value in state.items() if "num_batches" not in key}, TRUNK_ROWS)
    content = {"model": theirs, "__author__": "torchvision", "matching_heuristics": True}
    path = write_pickle(tmp_path / "R-50.pkl", content)
    checkpoint = load.read(path, {})
    read = load.build_model(checkpoint)
    assert isinstance(read.vision, TorchvisionVision)
    pixels = PIXELS[:, :, :64, :64]
    with torch.no_grad():
        torch.testing.assert_close(read.encode_image(Image(pixels=pixels)).pooled, _pooled(model, pixels))
    msra = {"stride_in_1x1": True} | MSRA.normalization()
    checkpoint.config["model"]["vision"] |= msra
    run = {"vision": dict(checkpoint.config["model"]["vision"]) | {"stride_in_1x1": False}}
    with pytest.raises(UserError, match="does not fit this run"):
        check_function(checkpoint, run, source="checkpoint=R-50.pkl")
    left_to_weights = VisionLanguageModel(vision=TorchvisionVision(name="resnet50"))
    assert load.load_weights(path, left_to_weights, {}, checkpoint=checkpoint) == []
    settings = left_to_weights.vision.architecture()
    assert settings["stride_in_1x1"]
    assert settings["std"] == pytest.approx([1 / 255] * 3)
    for stage in (2, 3, 4):
        strides = [left_to_weights.vision.backbone.get_submodule(f"layer{stage}.0.conv{n}").stride for n in (1, 2)]
        assert strides == [(2, 2), (1, 1)]
    given = TorchvisionVision(name="resnet18", std=[0.5, 0.5, 0.5], stride_in_1x1=False)
    given.take_settings(msra)
    assert given.architecture()["std"] == [0.5, 0.5, 0.5]
    assert given.architecture()["mean"] == pytest.approx(msra["mean"])
    assert not given.architecture()["stride_in_1x1"]


def _pooled(model: nn.Module, pixels: Tensor) -> Tensor:
    outputs = []
    model.get_submodule("avgpool").register_forward_hook(lambda *values: outputs.append(values[-1].flatten(1)))
    model(pixels)
    return outputs[-1]


def test_a_file_converted_to_ours_is_the_same(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "model.pkl", {"model": zoo_state(), **ZOO})
    checkpoint = load.read(path, {})
    load.save(checkpoint, tmp_path / "ours.pt")
    again = load.read(tmp_path / "ours.pt", {})
    assert again.state.keys() == checkpoint.state.keys()
    assert all(torch.equal(again.state[key], value) for key, value in checkpoint.state.items())
    assert all(torch.equal(again.heads[key], value) for key, value in checkpoint.heads.items())
    regions = vlp.load(tmp_path / "ours.pt").objectives["regions"]
    assert without_prefix(checkpoint.heads, "regions.").keys() == regions.state_dict().keys()
    assert tensor_files.read(path)["__author__"] == ZOO["__author__"]
    with pytest.raises(UserError, match="with the projection none"):
        convert(path, tmp_path / "folder", "hugging_face")
    assert not (tmp_path / "folder").exists()
