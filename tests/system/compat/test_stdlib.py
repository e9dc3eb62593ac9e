from __future__ import annotations

import gc
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.system.compat.contract import Contract, broken
from vlp.system.compat.stdlib import tar_members

CONTRACTS = [
    Contract(
        name="multiprocessing.queues:Queue._on_queue_feeder_error",
        needed="end a data worker whose batch does not fit into /dev/shm, which training would wait for",
        used_in="stdlib.on_unsendable_item()",
        parameters=("e", "obj"),
    ),
    Contract(
        name="tarfile:members",
        needed="read a tar of a million files without keeping every header",
        used_in="stdlib.tar_members()",
        on=lambda: tarfile.TarFile(fileobj=io.BytesIO(), mode="w"),
    ),
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.id)
def test_contract(contract: Contract) -> None:
    sentence = broken(contract)
    assert sentence is None, sentence


UNSENDABLE = """
import os, time
from multiprocessing import Queue
from vlp.system.compat.stdlib import on_unsendable_item
on_unsendable_item(lambda error, item: os._exit(7 if item == "item" or callable(item) else 8))
Queue().put(lambda: None)  # cannot be pickled
time.sleep(30)
"""


def test_an_item_that_cannot_be_sent_runs_the_handler() -> None:
    assert subprocess.run([sys.executable, "-c", UNSENDABLE], timeout=25, check=False).returncode == 7


def test_members_of_a_tar_are_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as archive:
        for number in range(50):
            entry = tarfile.TarInfo(f"{number}.txt")
            entry.size = 2
            archive.addfile(entry, io.BytesIO(b"%2d" % number))
    with tarfile.open(file) as archive:
        read = []
        for member in tar_members(archive):
            stream = archive.extractfile(member)
            assert stream is not None
            read.append((member.name, stream.read()))
        del member
        assert read == [(f"{number}.txt", b"%2d" % number) for number in range(50)]
        gc.collect()
        alive = [thing for thing in gc.get_objects() if isinstance(thing, tarfile.TarInfo)]
        assert len(alive) <= 2, "headers are kept somewhere else than in TarFile.members"
