"""What the protocol card says of the weights that a run started from, and the durations that a run prints."""

from __future__ import annotations

from vlp.launch.runs.results import _pretrained_weights
from vlp.report.tables import describe_durations


def test_names_every_tower_that_is_not_random() -> None:
    vision = {"towers": [{"tower": {"name": "resnet10t", "weights": {"_target_": "study.file", "number": 0}}}]}
    config = {
        "checkpoint": "start.ckpt",
        "model": {"vision": vision, "text": {"name": "bert-base-uncased", "weights": True}, "projection": {"width": 8}},
    }
    assert _pretrained_weights(config) == ["start.ckpt", "resnet10t: study.file(number=0)", "bert-base-uncased"]


def test_random_towers_are_not_named() -> None:
    assert (
        _pretrained_weights({"model": {"vision": {"name": "resnet10t", "weights": None}, "text": {"width": 8}}}) == []
    )


def test_durations_of_a_resumed_run_say_what_they_count() -> None:
    here = {"seconds": 27.0, "train_seconds": 20.0, "this_process_train_seconds": 20.0}
    assert describe_durations(here) == "trained 20 s, 27 s in all"
    assert describe_durations(here | {"train_seconds": 36.0}) == (
        "trained 36 s since the run's first start; this process: trained 20 s, 27 s in all"
    )
    assert describe_durations({"seconds": 3.0}) == "3 s in all", "a measurement trains nothing"
