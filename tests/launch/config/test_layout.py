"""Facts that several commands read off one config."""

from __future__ import annotations

import pytest

from vlp.launch.config.layout import ENDLESS, batch_sizes, local_processes, source_key, total_steps, wrong_monitor

ONE = {
    "data": {"name": "coco", "batch_size": 64},
    "tasks": {"retrieval": {"_target_": "x"}, "off": None},
    "trainer": {},
}
MIXED = {
    "data": {"name": "mix", "batch_size": 40, "ratios": {"a": 3, "b": 1}, "sources": {"a": {"x": 1}, "b": {"x": 1}}}
}


@pytest.mark.parametrize(
    ("devices", "count"), [(2, 2), ("3", 3), ("0,2", 2), ("1,", 1), ([0, 1, 5], 3), (-1, 4), ("auto", 4), (None, 4)]
)
def test_devices_as_lightning_reads_them(devices: object, count: int) -> None:
    assert local_processes({"trainer": {"accelerator": "gpu", "devices": devices}}, gpus=4) == count


def test_a_mixture_shares_its_batch_out_by_ratios() -> None:
    assert batch_sizes(ONE) == {"coco": 64}
    assert batch_sizes(MIXED) == {"a": 30, "b": 10}
    warm = {"data": {**MIXED["data"], "ratios": None, "temperature": 2.0}}
    assert batch_sizes(warm) == {"a": 20, "b": 20}  # until the data say how many there are
    assert source_key(ONE, "coco", "batch_size") == "data.batch_size"
    assert source_key(MIXED, "a", "num_workers") == "data.sources.a.num_workers"


@pytest.mark.parametrize("name", ["val/coco/off/r1", "val/coco/vqa/accuracy", "test/coco/retrieval/rsum", "rsum"])
def test_a_monitor_of_no_task_of_the_run_is_refused(name: str) -> None:
    assert "whose tasks are retrieval: set monitor=" in str(wrong_monitor(ONE | {"monitor": name}))


def test_steps_of_a_run() -> None:
    trainer = {"max_epochs": 3, "limit_train_batches": 0.5, "accumulate_grad_batches": 2}
    assert total_steps({"trainer": trainer}, per_epoch=10) == 9
    assert total_steps({"trainer": {"max_epochs": -1}}, per_epoch=10) == ENDLESS
