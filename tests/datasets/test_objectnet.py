"""ObjectNet: kinds that are several classes of ImageNet, and the red frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.issues import Faults
from vlp.data.transforms import EvalTransform
from vlp.datasets.objectnet import ObjectNet

Loading = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "mappings").mkdir()
    labels = {"alarm_clock": "Alarm clock", "air_freshener": "Air freshener", "clock_dial": "Clock dial"}
    classes = {"Alarm clock": "digital clock; analog clock", "Clock dial": "analog clock"}
    (tmp_path / "mappings/folder_to_objectnet_label.json").write_text(json.dumps(labels))
    (tmp_path / "mappings/objectnet_to_imagenet_1k.json").write_text(json.dumps(classes))
    for number, folder in enumerate(labels):
        (tmp_path / "images" / folder).mkdir(parents=True)
        image = PIL.Image.new("RGB", (24, 20), "red")
        image.paste((0, 80 * number, 255), (2, 2, 22, 18))
        image.save(tmp_path / "images" / folder / "a.png")
    (tmp_path / "images/alarm_clock/notes.txt").write_text("x")
    return tmp_path


def test_a_kind_is_all_of_its_classes_and_others_are_left_out(root: Path, loading: Loading) -> None:
    data = ObjectNet(root=root, **loading)
    with pytest.warns(UserWarning, match="kind that is no class of ImageNet, 1 left out: air_freshener"):
        alarm, dial = data.split("test")
    assert data.class_names == ("analog clock", "digital clock")
    assert (alarm.categories, dial.categories) == ((0, 1), (0,))
    assert len(data.split("train")) == len(data.split("val")) == 0


def test_the_red_frame_is_cut_off(root: Path, loading: Loading) -> None:
    for border, red in ((2, 0), (0, 1)):
        squash = EvalTransform(image_size=[20, 24], mode="squash")
        loading["transform"] = {"train": squash, "eval": squash}
        data = ObjectNet(root=root, border=border, **loading)
        data.setup("test")
        batch = next(iter(data.test_dataloader()))
        assert batch.categories.tolist() == [[True, True], [True, False]]
        assert int((batch.image.pixels[:, 0] > 200).any()) == red
        assert batch.frame[0].tolist() == [border, border, 24 - 2 * border, 20 - 2 * border]


def test_missing_parts_are_named(root: Path, loading: Loading) -> None:
    (root / "mappings/objectnet_to_imagenet_1k.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="holds no photo of a class of ImageNet"):
        ObjectNet(root=root, **loading).samples("test")
    (root / "mappings/objectnet_to_imagenet_1k.json").write_text('{"a": 1}')
    data = ObjectNet(root=root, **loading)
    data.faults = Faults(collect=True)
    assert data.samples("test") == []
    assert [fault.kind for fault in data.faults.issues.values() if fault.fatal] == ["unexpected structure"]
