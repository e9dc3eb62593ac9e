"""What the protocol card says of the weights that a run started from."""

from __future__ import annotations

from vlp.launch.runs.results import _pretrained


def test_names_every_tower_that_is_not_random() -> None:
    vision = {"towers": [{"tower": {"name": "resnet10t", "weights": {"_target_": "study.file", "number": 0}}}]}
    config = {
        "checkpoint": "start.ckpt",
        "model": {"vision": vision, "text": {"name": "bert-base-uncased", "weights": True}, "projection": {"width": 8}},
    }
    assert _pretrained(config) == ["start.ckpt", "resnet10t: study.file(number=0)", "bert-base-uncased"]


def test_random_towers_are_not_named() -> None:
    assert _pretrained({"model": {"vision": {"name": "resnet10t", "weights": None}, "text": {"width": 8}}}) == []
