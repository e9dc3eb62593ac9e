"""`vlp data download` in processes of its own: killed, interrupted, twice at once."""

import hashlib
import json
import os
import signal
import time

import pytest

from vlp import cli


def entry(url, content, **changes):
    return {"url": url, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}


def wait_for(condition, seconds=90):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_ended_process_leaves_what_the_next_one_goes_on_with(server, catalogue_file, start, tmp_path, number):
    content = os.urandom(8_000_000)  # four seconds at this rate
    catalogue = catalogue_file(entry(server.put("/a.bin", content), content, to="a.bin"))
    part = tmp_path / "root" / "a.bin.part"
    server.rate = 2_000_000
    first = start(catalogue, "--root", tmp_path / "root")
    wait_for(lambda: part.exists() and part.stat().st_size > 400_000)
    first.send_signal(number)
    _, said = first.communicate(timeout=90)
    assert first.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert said.splitlines()[-1] == "interrupted: run the same command again to continue"
    there = part.stat().st_size
    assert 400_000 < there < len(content)

    server.rate = None
    second = start(catalogue, "--root", tmp_path / "root")
    out, said = second.communicate(timeout=90)
    assert second.returncode == 0, said
    assert out.strip() == str(tmp_path / "root")
    assert (tmp_path / "root" / "a.bin").read_bytes() == content
    assert server.asked("/a.bin")[1]["Range"] == f"bytes={there}-"
    third = start(catalogue, "--root", tmp_path / "root")
    third.communicate(timeout=90)
    assert len(server.asked("/a.bin")) == 2


def test_two_processes_do_not_fight_for_a_root(server, catalogue_file, start, tmp_path):
    content = os.urandom(1_000_000)
    catalogue = catalogue_file(entry(server.put("/a.bin", content), content, to="a.bin"))
    server.rate = 300_000
    first = start(catalogue, "--root", tmp_path / "root")
    wait_for(lambda: server.asked("/a.bin"))
    second = start(catalogue, "--root", tmp_path / "root")
    _, said = second.communicate(timeout=90)
    assert second.returncode == 2
    assert (
        said
        == f"vlp data download: {tmp_path / 'root'}: another process is downloading into it; wait for it, or end it\n"
    )
    server.rate = None
    assert first.wait(timeout=90) == 0
    assert len(server.asked("/a.bin")) == 1


def run(capsys, *arguments):
    code = cli.main(["data", "download", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_files_come_several_at_a_time(server, catalogue_file, tmp_path, capsys):
    files = [os.urandom(200_000) for _ in range(4)]
    server.rate = 400_000
    entries = [entry(server.put(f"/{n}.bin", content), content) for n, content in enumerate(files)]
    code, out, said = run(capsys, catalogue_file(*entries), "--root", tmp_path / "root")
    assert (code, out) == (0, f"{tmp_path / 'root'}\n"), said
    assert server.together > 1
    assert [(tmp_path / "root" / f"{n}.bin").read_bytes() for n in range(4)] == files


def test_only_the_parts_that_are_asked_for(server, catalogue_file, packed, tmp_path, capsys, monkeypatch):
    words, photos = b'{"images": []}', packed({"photos/1.jpg": b"jpg"})
    catalogue = catalogue_file(
        annotations=[entry(server.put("/words.json", words), words)],
        images=[entry(server.put("/photos.zip", photos), photos, unpack=".", provides=["photos/"])],
    )
    monkeypatch.setenv("VLP_DATA", str(tmp_path / "data"))
    code, out, said = run(capsys, catalogue, "--only", "annotations")
    assert (code, out) == (0, f"{tmp_path / 'data' / 'toy'}\n")
    assert "Toy, CC0: 14 bytes to download" in said
    assert not server.asked("/photos.zip")
    assert run(capsys, catalogue, "--delete-archives")[0] == 0
    assert len(server.asked("/words.json")) == 1
    assert (tmp_path / "data" / "toy" / "photos" / "1.jpg").read_bytes() == b"jpg"


def test_lists_need_no_network(capsys):
    code, out, _ = run(capsys, "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "coco", "coco_karpathy", "flickr30k", "flickr8k", "visual_genome", "vqa_v2",
    ]  # fmt: skip
    code, out, _ = run(capsys, "flickr30k", "--list")
    assert code == 0
    for word in (
        "36.7 MB, sha256",
        "non-commercial",
        "by hand: the 31,783 photos",
        "dataset_flickr30k.json",
        "train.txt",
    ):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "which data set? There are coco,"),
        (["cocoo"], "did you mean coco"),
        (["coco", "--only", "photos"], "there is no such part: there are annotations, images"),
        (["coco", "--jobs", "0"], "--jobs 0: expects at least 1"),
        (["coco", "--retries", "-1"], "--retries -1"),
        (["coco", "--timeout", "0"], "--timeout 0.0"),
        (["coco", "--root", "/proc/nowhere"], "/proc/nowhere"),
        (["gone.yaml"], "there is no such catalogue"),
    ],
)
def test_mistakes_are_one_sentence(capsys, arguments, sentence):
    code, _, said = run(capsys, *arguments)
    assert code == 2
    assert said.startswith("vlp data download: ")
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_a_damaged_manifest_says_what_to_do(server, catalogue_file, tmp_path, capsys):
    catalogue = catalogue_file(entry(server.put("/a.bin", b"a"), b"a"))
    assert run(capsys, catalogue, "--root", tmp_path)[0] == 0
    manifest = tmp_path / "downloads" / "manifest.json"
    assert json.loads(manifest.read_text())["files"]["a.bin"]["bytes"] == 1
    manifest.write_text("{")
    code, _, said = run(capsys, catalogue, "--root", tmp_path)
    assert code == 2
    assert "manifest.json: damaged; delete it" in said


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys):
    from vlp.curation.download.download_progress import DownloadProgress, FileProgress

    files = [FileProgress("a.zip", total=2_000_000), FileProgress("b.zip")]
    with DownloadProgress(files, line_every=0.0) as progress:
        files[0].stage, files[0].done, files[1].stage = "downloading", 500_000, "complete"
        files[1].message = "was slow"
        progress.update()
        progress.line_every = 60.0
        progress.update()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "b.zip: was slow"
    assert second.startswith("a.zip downloading 500 kB of 2.0 MB; ")
    assert second.endswith("/s; 1 of 2 files complete")
