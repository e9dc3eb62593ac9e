from __future__ import annotations

import hashlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.s3 import BUCKET, s3_server
from vlp.data.issues import DataError
from vlp.data.shards import store as store_module
from vlp.data.shards.manifest import Shard
from vlp.data.shards.store import ShardStore
from vlp.datasets.shards import Shards

Packed = Callable[..., Path]
Build = Callable[..., Shards]


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, breaking off every other answer; without ranges."""

    faults = 0
    refusing = 0

    def do_GET(self) -> None:
        if type(self).refusing:
            self.send_error(type(self).refusing)
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if type(self).refusing:
            self.send_error(type(self).refusing)
        else:
            super().do_HEAD()

    def log_message(self, *arguments: Any) -> None:
        pass

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        if type(self).faults > 0 and len(data) > 2000:
            type(self).faults -= 1
            outputfile.write(data[:1000])
            outputfile.flush()
            self.connection.close()
            return
        outputfile.write(data)


@pytest.fixture
def served(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(store_module, "FIRST_WAIT_S", 0.01)
    folder = packed({"train": 40, "val": 5, "test": 5}, samples_per_shard=9)

    def handler(*arguments: Any) -> Files:
        return Files(*arguments, directory=str(folder))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", folder
    finally:
        server.shutdown()
        server.server_close()


def ids(data: Shards) -> list[list[int]]:
    return [batch.id.tolist() for batch in data.train_dataloader()]


def test_shards_are_read_over_http_that_breaks_connections(served: tuple[str, Path], shards: Build) -> None:
    address, folder = served
    local = shards(folder, batch_size=8)
    local.setup("fit")
    Files.faults = 3
    remote = shards(address, batch_size=8)
    remote.setup("fit")
    assert ids(remote) == ids(local)
    assert Files.faults == 0
    assert remote.fingerprint("train") == local.fingerprint("train")


def test_a_changed_or_missing_shard_is_named(served: tuple[str, Path], shards: Build, tmp_path: Path) -> None:
    address, folder = served
    store = ShardStore(address, cache=tmp_path / "cache", cache_bytes=1 << 30)
    with pytest.raises(DataError, match=r"there is no http://127.*none\.tar"):
        store.local_path(Shard(name="none.tar"))
    with pytest.raises(DataError, match=r"train-00000\.tar: \d+ bytes with sha256 \w+…, the manifest says"):
        store.local_path(Shard(name="train-00000.tar", sha256="0" * 64))
    assert not list((tmp_path / "cache").rglob("*.tar"))
    shard = folder / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"train-00001\.tar: \d+ bytes, the manifest says"):
        shards(address).split("train")


def test_the_cache_keeps_to_its_size_and_the_last_used_stay(served: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = served
    size = (folder / "train-00000.tar").stat().st_size
    store = ShardStore(address, cache=tmp_path / "cache", cache_bytes=int(2.5 * size))
    for number in (0, 1, 0, 2):
        store.local_path(Shard(name=f"train-0000{number}.tar"))
        time.sleep(0.02)
    assert {path.name for path in store.cache.rglob("*.tar")} == {"train-00000.tar", "train-00002.tar"}
    with pytest.raises(DataError, match="does not fit into"):
        ShardStore(address, cache=tmp_path / "other", cache_bytes=10).local_path(Shard(name="train-00000.tar"))


def test_an_unknown_kind_of_address_and_a_dead_server_are_told(
    shards: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "FIRST_WAIT_S", 0.001)
    with pytest.raises(DataError, match=r"pip install 'vlp\[stream\]'"):
        shards("nothing://bucket").split("train")
    with pytest.raises(DataError, match=r"not readable after 7 tries") as caught:
        shards("http://user:hidden@127.0.0.1:1/x").split("train")
    assert "hidden" not in str(caught.value)


def test_a_shard_that_was_replaced_at_its_address_is_fetched_anew(served: tuple[str, Path], shards: Build) -> None:
    address, folder = served
    before = [sample.captions for sample in shards(address).split("train")]
    manifest = json.loads((folder / "manifest.json").read_text())
    first, second = manifest["splits"]["train"][:2]
    data = [(folder / shard["name"]).read_bytes() for shard in (first, second)]
    for shard, content in ((first, data[1]), (second, data[0])):
        (folder / shard["name"]).write_bytes(content)
        shard |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    after = [sample.captions for sample in shards(address).split("train")]
    assert after != before
    assert sorted(after) == sorted(before)


def test_a_cache_of_two_blocks_is_enough_while_another_split_is_read(served: tuple[str, Path], shards: Build) -> None:
    """Shards that were removed in between are fetched again; no photo is replaced."""
    address, folder = served
    size = max(path.stat().st_size for path in folder.glob("*.tar"))
    data = shards(address, batch_size=8, cache_bytes=int(2.2 * size), block=1, max_bad_fraction=0.0)
    data.setup("fit")
    seen = []
    for batch in data.train_dataloader():
        seen += batch.id.tolist()
        assert sum(len(part) for part in data.val_dataloader()) == 5
    assert sorted(seen) == list(range(40))
    assert data.bad_samples == 0


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_told_as_one(served: tuple[str, Path], shards: Build, status: int) -> None:
    address, _ = served
    Files.refusing = status
    try:
        with pytest.raises(DataError, match=rf"access is denied \({status}\); check the credentials"):
            shards(address).split("train")
    finally:
        Files.refusing = 0


def test_shards_are_read_from_s3(
    packed: Packed, shards: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    folder = packed({"train": 40, "val": 5, "test": 5}, samples_per_shard=9)
    with s3_server(folder) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        local, remote = shards(folder, batch_size=8), shards(f"s3://{BUCKET}", batch_size=8, num_workers=2)
        by_pattern = shards(f"s3://{BUCKET}", batch_size=8, splits={"train": "train-*.tar"}, cache=tmp_path / "other")
        for data in (local, remote, by_pattern):
            data.setup("fit")
        assert ids(remote) == ids(local) == ids(by_pattern)
    assert len(list((tmp_path / "cache").rglob("train-*.tar"))) == 5
