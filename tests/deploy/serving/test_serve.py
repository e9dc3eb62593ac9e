"""`vlp serve` as people start it: a real artifact in a real process, and each mistake as one sentence before anything answers."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.deploy.serving.fake_engine import FakeEngine, photo
from tests.deploy.serving.photo_index import make_index
from tests.deploy.serving.requests_to import ROOT
from vlp.cli import main
from vlp.deploy.runtime.engine import open_artifact

KEY = "k3y-of-twenty-letters"
BLOCKED = (  # as if they were not installed
    "import sys, importlib.abc\n"
    "class Blocked(importlib.abc.MetaPathFinder):\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.split('.')[0] in ('torch', 'torchvision', 'lightning', 'transformers', 'timm'): raise ImportError(name)\n"
    "sys.meta_path.insert(0, Blocked())\n"
    "from vlp.cli import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("export") / "tiny-clip"
    program = "import sys; from tests.deploy.export import tiny; from vlp.deploy.export.export import export\n"
    program += "from pathlib import Path; export(tiny.clip(), Path(sys.argv[1]))"  # in a process that checks no shapes
    words = [sys.executable, "-W", "ignore", "-c", program, str(folder)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-c", BLOCKED, "serve", *arguments]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "VLP_KEY"}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


@contextmanager
def served(*arguments: str, **more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        command(*arguments, "--port", "0"),
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        found = re.match(r"(http://\S+) answers with ", line)
        assert found is not None, line + process.stderr.read()
        address = found[1].replace("0.0.0.0", "127.0.0.1")
        while httpx.get(f"{address}/ready", timeout=20).status_code != 200:
            pass
        yield process, address
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that is printed; the exit code is 2."""
    assert main(["serve", *arguments]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("vlp serve: ")
    assert errors.count("\n") == 1, errors
    return errors


@pytest.mark.slow
def test_an_artifact_and_its_index_without_torch(artifact: Path, tmp_path: Path) -> None:
    engine = open_artifact(artifact)
    index = make_index(tmp_path, engine)
    with served(str(artifact), "--index", str(index)) as (process, address), httpx.Client(base_url=address) as client:
        model = client.get("/v1/models").json()["data"][0]
        assert (model["id"], model["fingerprint"], model["photos"]) == ("tiny-clip", engine.fingerprint, 7)
        texts = ["a red circle", "two dogs run left of a blue square"]
        answer = client.post("/v1/embeddings", json={"model": "tiny-clip", "input": texts}).json()
        found = np.float32([item["embedding"] for item in answer["data"]])
        np.testing.assert_allclose(found, engine.embed_texts(texts), atol=1e-6)
        uri = "data:image/png;base64," + base64.b64encode(photo("red", kind="PNG")).decode()
        answer = client.post("/v1/embeddings", json={"input": [{"image": uri}]}).json()
        expected = engine.embed_images([photo("red", kind="PNG")])
        np.testing.assert_allclose(np.float32([answer["data"][0]["embedding"]]), expected, atol=1e-6)
        labels = client.post("/v1/classify", json={"image": uri, "labels": ["circle", "dog"]}).json()["labels"]
        (own,) = engine.classify([photo("red", kind="PNG")], ["circle", "dog"])
        assert {item["label"]: item["score"] for item in labels} == pytest.approx(own, abs=1e-5)
        photos = client.post("/v1/search", json={"image": uri}).json()["photos"]
        assert Path(photos[0]["path"]).stem == "red"
        assert client.get(photos[0]["thumbnail"]).headers["content-type"] == "image/jpeg"
        assert client.post("/v1/caption", json={"image": uri}).status_code == 404
        cut = {"image": uri[:-80]}
        assert client.post("/v1/classify", json={**cut, "labels": ["a", "b"]}).status_code == 400
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.slow
def test_a_key_for_other_machines(artifact: Path) -> None:
    with served(str(artifact), "--host", "0.0.0.0", "--key-env", "MY_KEY", MY_KEY=KEY) as (process, address):
        assert httpx.get(f"{address}/v1/models").status_code == 401
        assert httpx.get(f"{address}/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert KEY not in process.stderr.read()


def test_mistakes_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLP_KEY", raising=False)
    folder = str(tmp_path)
    assert "there is no such folder" in mistake(capsys, str(tmp_path / "none"), "--port", "0")
    assert "no manifest.json in it" in mistake(capsys, folder, "--port", "0")
    assert "without a key" in mistake(capsys, folder, "--host", "0.0.0.0")
    assert "from 0 to 65535" in mistake(capsys, folder, "--port", "70000")
    assert "above queue=10" in mistake(capsys, folder, "--queue", "10")
    monkeypatch.setenv("VLP_KEY", "short")
    assert "can be guessed" in mistake(capsys, folder)
    monkeypatch.setenv("VLP_KEY", KEY)
    assert "no such address" in mistake(capsys, folder, "--host", "192.0.2.1")  # of the documentation network
    monkeypatch.delenv("VLP_KEY", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "another program has this port" in mistake(capsys, folder, "--port", str(taken.getsockname()[1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text.onnx", "tokenizer.json", "transform.json"])
def test_a_damaged_artifact_is_one_sentence(
    artifact: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(artifact, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (copy / name).write_bytes(data)
    assert "copy the artifact again" in mistake(capsys, str(copy), "--port", "0")


@pytest.mark.slow
def test_a_foreign_index_is_one_sentence(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = make_index(tmp_path, FakeEngine())
    assert str(index) in mistake(capsys, str(artifact), "--port", "0", "--index", str(index))
    assert "none" in mistake(capsys, str(artifact), "--port", "0", "--index", str(tmp_path / "none"))
