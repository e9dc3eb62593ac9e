from __future__ import annotations

from vlp.tasks.base import figures_by_class


def test_each_class_has_a_figure_of_its_own() -> None:
    names = ("traffic light", "traffic/light", "pole")
    assert figures_by_class("iou", names, [1.0, None, 3.0]) == {
        "iou_traffic_light": 1.0,
        "iou_traffic_light_1": None,
        "iou_pole": 3.0,
    }
