"""With Detectron2 installed: its models train on a tower of vlp, features equal its own, and its catalogs read scenes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("detectron2", reason="detectron2 is not installed; docs/guides/detectron2.md says how it is built")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.events import EventStorage

import tests.checkpoints.detectron2_files as small
from tests.checkpoints.detectron2_files import caffe2_state, write_pickle, zoo_state
from tests.integrations.test_detectron2_data import TRANSFORM
from vlp.checkpoints import detectron2 as reader
from vlp.checkpoints import load
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.detectron2_keys import to_zoo_names
from vlp.checkpoints.keys import without_prefix
from vlp.datasets.coco import COCO
from vlp.integrations.detectron2 import PaddedFeaturePyramid, VlpBackbone, add_vlp_config, register
from vlp.integrations.detectron2_data import XYWH_ABS
from vlp.models.dense.regions import RegionFeatures
from vlp.models.vision.resnet import ResNetVision
from vlp.models.vision.small_cnn import SmallCnn
from vlp.scenes.generate import generate
from vlp.structures import Image
from vlp.system.errors import UserError

pytestmark = pytest.mark.detectron2
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small tower of stride 8."""
    return saved(tmp_path / "tower.ckpt", SmallCnn, image_size=64, channels=8)


def saved(path: Path, kind: Any, **sizes: Any) -> Path:
    """A tower with random weights, in a file of vlp."""
    torch.manual_seed(0)
    state = {f"vision.{key}": value for key, value in kind(**sizes).state_dict().items()}
    tower = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **sizes}
    model = {"_target_": "vlp.models.vlm.VisionLanguageModel", "vision": tower}
    load.save(Checkpoint(config={"model": model}, state=state), path)
    return path


def config(checkpoint: Path) -> Any:
    cfg = get_cfg()
    add_vlp_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.VLP.CHECKPOINT = str(checkpoint)
    cfg.MODEL.BACKBONE.NAME = "build_vlp_pyramid_backbone"
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32]]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 1, 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    return cfg


def inputs(count: int = 2, height: int = 64, width: int = 64) -> list[dict[str, Any]]:
    """A bright square on a dark ground."""
    rows = []
    for index in range(count):
        image = torch.full((3, height, width), 40, dtype=torch.uint8)
        left, top = 8 + 10 * index, 12
        image[index % 3, top : top + 24, left : left + 20] = 220
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[left, top, left + 20.0, top + 24.0]]))
        instances.gt_classes = torch.tensor([index % 3])
        rows.append({"image": image, "instances": instances, "height": height, "width": width})
    return rows


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_features_are_those_of_the_tower_whatever_the_normalisation(checkpoint: Path, order: str) -> None:
    mean, std = (103.5, 116.3, 123.7), (57.0, 58.0, 2.0)
    backbone = VlpBackbone(checkpoint=checkpoint, pixel_mean=mean, pixel_std=std, input_format=order).eval()
    rgb = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    given = rgb.flip(1) if order == "BGR" else rgb
    normalised = (given - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    with torch.no_grad():
        tokens = backbone.model.encode_image(Image(pixels=rgb))
        features = backbone(normalised)["last_feat"]
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), tokens.states, atol=1e-4, rtol=1e-4)
    shape = backbone.output_shape()["last_feat"]
    assert (shape.channels, shape.stride) == (64, 8)
    assert backbone.size_divisibility == 8
    assert backbone.padding_constraints == {"size_divisibility": 8, "square_size": 0}


def test_inner_maps_and_frozen_norms() -> None:
    tower = ResNetVision(layers=(1, 1, 1, 1), stem=4, planes=2, image_size=64)
    levels = {f"res{stage + 1}": f"backbone.layer{stage}" for stage in (1, 2, 3, 4)}
    backbone = VlpBackbone(tower=tower, levels=levels).train()
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    outputs = backbone(torch.randn(1, 3, 96, 64))
    shapes = {name: (shape.channels, shape.stride) for name, shape in backbone.output_shape().items()}
    assert shapes == {"res2": (8, 4), "res3": (16, 8), "res4": (32, 16), "res5": (64, 32)}
    assert {name: (level.shape[1], 96 // level.shape[2]) for name, level in outputs.items()} == shapes
    assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())
    assert not tower.backbone.bn1.weight.requires_grad
    assert tower.backbone.conv1.weight.requires_grad
    frozen = VlpBackbone(tower=ResNetVision(layers=(1, 1, 1, 1), stem=4, planes=2, image_size=64), freeze="everything")
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    with pytest.raises(UserError, match="set checkpoint"):
        VlpBackbone()


def test_generalized_rcnn_trains_on_a_tower_of_vlp(checkpoint: Path) -> None:
    torch.manual_seed(0)
    model = build_model(config(checkpoint)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    with EventStorage():
        for _ in range(30):
            losses = model(inputs())
            total = sum(losses.values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(total.item())
    tower = model.backbone.net.model.vision
    trained = {name: parameter for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert all(bool(parameter.grad.any()) for parameter in trained.values())
    assert "last.weight" in trained
    assert sum(totals[-3:]) < 0.6 * sum(totals[:3])
    results = model.eval()(inputs())
    assert len(results) == 2
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}


def test_photos_of_odd_sizes(checkpoint: Path) -> None:
    model = build_model(config(checkpoint)).eval()
    assert isinstance(model.backbone, PaddedFeaturePyramid)
    (result,) = model(inputs(1, height=70, width=101))
    assert result["instances"].image_size == (70, 101)


def test_the_lazy_config_of_the_guide(tmp_path: Path) -> None:
    sizes = {"layers": [1, 1, 1, 1], "stem": 4, "planes": 4, "image_size": 64}
    checkpoint = saved(tmp_path / "tower.ckpt", ResNetVision, **sizes)
    page = (ROOT / "docs" / "guides" / "detectron2.md").read_text(encoding="utf-8")
    (body,) = re.findall(r'^```python title="mask_rcnn_vlp\.py"\n(.*?)^```$', page, re.M | re.S)
    (tmp_path / "mask_rcnn_vlp.py").write_text(body.replace("runs/clip/best.ckpt", str(checkpoint)))
    model = LazyConfig.load(str(tmp_path / "mask_rcnn_vlp.py")).model
    model.backbone.net.levels = {"last_feat": "backbone.layer3"}  # of stride 16
    built = instantiate(model)
    assert isinstance(built.backbone, PaddedFeaturePyramid)
    assert built.backbone.net.is_bgr == (built.input_format == "BGR")
    assert torch.equal(built.backbone.net.pixel_std, built.pixel_std)
    (result,) = built.eval()(inputs(1, height=70, width=101))
    assert result["instances"].has("pred_masks")


def resnet_fpn(state: dict[str, Tensor]) -> Any:
    """Detectron2's own model of the sizes of `zoo_state`."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = small.GROUPS, small.PER_GROUP
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = small.STEM, 4 * small.PLANES
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.FPN.IN_FEATURES = cfg.MODEL.RESNETS.OUT_FEATURES
    cfg.MODEL.FPN.OUT_CHANNELS = small.FPN
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.IN_FEATURES = "StandardROIHeads", ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = (
        2,
        small.FC,
        7,
    )
    return cfg


@pytest.mark.parametrize("layout", ["zoo", "caffe2"])
def test_features_of_given_boxes_are_those_of_detectron2(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "LAYERS", (3, 4, 6, 3))  # of a ResNet-50, which Detectron2 builds
    state = zoo_state(folded=layout == "caffe2")
    for key in state:  # random weights of such a depth would overflow
        if ".conv3.norm.weight" in key:
            state[key] = state[key] / 4
    content = {"model": state, "__author__": "Detectron2 Model Zoo"} if layout == "zoo" else caffe2_state(state)
    path = write_pickle(tmp_path / "model.pkl", content)
    model = build_model(resnet_fpn(state)).eval()
    DetectionCheckpointer(model).load(str(path))
    pixels = torch.randn(2, 3, 256, 320)
    boxes = [torch.rand(9, 4) * 150 for _ in range(2)]
    boxes = [torch.cat([own[:, :2], own[:, :2] + own[:, 2:] + 1], dim=1) for own in boxes]
    boxes[0][0] = torch.tensor([0.0, 0.0, 319.0, 255.0])
    read = load.read(path, {})
    trunk, _ = reader.read_trunk(to_zoo_names(load.tensor_files.read(path)), path)
    tower = ResNetVision(**reader.resnet_sizes(trunk, path)).eval()
    tower.backbone.load_state_dict(trunk)
    regions = RegionFeatures(**{k: v for k, v in read.config["objectives"]["regions"].items() if k != "_target_"})
    regions.load_state_dict(without_prefix(read.heads, "regions."))
    with torch.no_grad():
        levels = model.backbone(pixels)
        heads = model.roi_heads
        pooled = heads.box_pooler([levels[name] for name in heads.box_in_features], [Boxes(own) for own in boxes])
        theirs = heads.box_head(pooled)
        maps = [tower.backbone.maxpool(tower.backbone.relu(tower.backbone.bn1(tower.backbone.conv1(pixels))))]
        for stage in (1, 2, 3, 4):
            maps.append(tower.backbone.get_submodule(f"layer{stage}")(maps[-1]))
        ours = regions(maps[1:], boxes)
    assert theirs.abs().max() > 1
    assert (ours - theirs).abs().max() == 0
    for name, ours_level in zip(["p2", "p3", "p4", "p5"], regions.pyramid(maps[1:]), strict=True):
        assert torch.equal(ours_level, levels[name])


def test_catalogs_and_evaluator_read_scenes(tmp_path: Path) -> None:
    generate(tmp_path, images={"train": 4, "val": 2, "test": 3}, size=64, seed=0)
    official = tmp_path / "annotations" / "instances_test.json"
    data = COCO(name="coco", root=tmp_path, transform=TRANSFORM, train="train", test="test", held_out=1, boxes=True)
    register_coco_instances(f"{tmp_path}/theirs", {}, str(official), str(tmp_path / "test"))
    register(f"{tmp_path}/ours", data, "test")
    theirs, ours = (
        {record["image_id"]: record for record in DatasetCatalog.get(f"{tmp_path}/{name}")}
        for name in ("theirs", "ours")
    )
    classes = [MetadataCatalog.get(f"{tmp_path}/{name}").thing_classes for name in ("theirs", "ours")]
    assert BoxMode.XYWH_ABS == XYWH_ABS
    assert theirs.keys() == ours.keys()
    for image, record in ours.items():
        for key in ("height", "width", "file_name"):
            assert record[key] == theirs[image][key]
        rows = [
            sorted((names[one["category_id"]], *map(float, one["bbox"])) for one in records["annotations"])
            for records, names in ((theirs[image], classes[0]), (record, classes[1]))
        ]
        assert rows[0] == rows[1]
    options = {"image_format": "BGR", "use_instance_mask": True, "instance_mask_format": "bitmask"}
    mapper = DatasetMapper(is_train=True, augmentations=[T.RandomFlip()], **options)
    mapped = mapper(next(iter(theirs.values())))  # with masks
    assert len(mapped["instances"]) == len(next(iter(theirs.values()))["annotations"])
    evaluator = COCOEvaluator(f"{tmp_path}/ours", tasks=("bbox",), output_dir=str(tmp_path / "out"))
    evaluator.reset()
    for record in ours.values():
        instances = Instances((record["height"], record["width"]))
        boxes = torch.tensor([one["bbox"] for one in record["annotations"]]).reshape(-1, 4)
        instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        instances.scores = torch.ones(len(boxes))
        instances.pred_classes = torch.tensor([one["category_id"] for one in record["annotations"]])
        evaluator.process([record], [{"instances": instances}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_shape_of_the_input_is_ignored(checkpoint: Path) -> None:
    cfg = config(checkpoint)
    cfg.MODEL.BACKBONE.NAME = "build_vlp_backbone"
    from detectron2.modeling import build_backbone

    assert build_backbone(cfg, ShapeSpec(channels=3)).output_shape().keys() == {"last_feat"}
