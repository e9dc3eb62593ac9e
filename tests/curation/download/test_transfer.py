"""Everything that goes wrong on the way, and that only the right bytes arrive in the end."""

import hashlib
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from vlp.curation.download.catalogue import read_catalogue
from vlp.curation.download.connection import Connection, RetryPolicy
from vlp.curation.download.download_progress import FileProgress
from vlp.curation.download.transfer import MIN_PROGRESS, FileTransfer


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def entry(url, content, **changes):
    return {"url": url, "to": "a.bin", "bytes": len(content), "sha256": sha256(content), **changes}


def unchecked(url):
    return {"url": url, "to": "a.bin"}


def test_a_file_arrives_and_is_not_fetched_again(server, fetch, noise):
    file = entry(server.put("/a.bin", noise), noise)
    root = fetch(file)
    assert (root / "a.bin").read_bytes() == noise
    fetch(file)
    assert len(server.requests) == 1
    assert sorted(path.name for path in root.rglob("*")) == ["a.bin", "downloads", "lock", "manifest.json"]


def test_a_broken_connection_is_continued_from_where_it_broke(server, fetch, noise):
    url = server.put("/a.bin", noise)
    server.acts["/a.bin"] = [("break", 100_000), ("break", 50_000)]
    assert (fetch(entry(url, noise)) / "a.bin").read_bytes() == noise
    first, second, third = server.asked("/a.bin")
    assert "Range" not in first
    assert (second["Range"], third["Range"]) == ("bytes=100000-", "bytes=150000-")
    assert second["If-Range"] == server.etags["/a.bin"]
    assert server.sent["/a.bin"] == len(noise)


def test_a_length_that_promises_more_is_noticed(server, fetch, noise):
    url = server.put("/a.bin", noise)
    server.acts["/a.bin"] = [("claim", len(noise) + 5)]
    root = fetch(unchecked(url))
    assert (root / "a.bin").read_bytes() == noise
    assert len(server.asked("/a.bin")) == 3  # the promise, the question for the rest, and all of it


def test_a_server_that_ignores_range_starts_over(server, fetch, noise):
    url = server.put("/a.bin", noise)
    server.acts["/a.bin"] = [("break", 100_000)]
    server.always["/a.bin"] = ("deaf",)
    assert (fetch(entry(url, noise)) / "a.bin").read_bytes() == noise
    assert server.sent["/a.bin"] == 100_000 + len(noise)


@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_changes_between_attempts_is_fetched_anew(server, fetch, noise, known):
    url, later = server.put("/a.bin", noise), noise[::-1]
    server.acts["/a.bin"] = [("break", 100_000)]
    server.after_first = lambda: server.put("/a.bin", later)
    root = fetch(entry(url, later) if known else unchecked(url))
    assert (root / "a.bin").read_bytes() == later


def test_a_server_that_lies_about_the_version_is_found_out_by_the_checksum(server, fetch, noise):
    url = server.put("/a.bin", noise)
    server.etags["/a.bin"] = '"same"'
    server.acts["/a.bin"] = [("wrong", noise[::-1][:100_000] + noise[100_000:])]
    assert (fetch(entry(url, noise)) / "a.bin").read_bytes() == noise


def test_without_etag_or_checksum_nothing_is_continued(server, fetch, noise):
    url = server.put("/a.bin", noise)
    server.etags["/a.bin"] = None
    server.acts["/a.bin"] = [("break", 100_000)]
    assert (fetch(unchecked(url)) / "a.bin").read_bytes() == noise
    assert all("Range" not in headers for headers in server.asked("/a.bin"))


def test_a_weak_etag_is_no_promise(server, fetch, noise):
    url = server.put("/a.bin", noise)
    server.etags["/a.bin"] = 'W/"1"'
    server.acts["/a.bin"] = [("break", 100_000)]
    fetch(unchecked(url))
    assert all("Range" not in headers for headers in server.asked("/a.bin"))


@pytest.mark.parametrize("status", [503, 429, 500, 408])
def test_a_busy_server_is_asked_again(server, fetch, noise, status):
    url = server.put("/a.bin", noise)
    server.acts["/a.bin"] = [("status", status, {}), ("status", status, {"Retry_After": "0"})]
    assert (fetch(entry(url, noise)) / "a.bin").read_bytes() == noise


def test_retry_after_is_waited_for(server, noise, catalogue_file, tmp_path):
    class Recorder(threading.Event):
        waits: ClassVar[list] = []

        def wait(self, timeout=None):
            self.waits.append(timeout)
            return False

    url = server.put("/a.bin", noise)
    server.acts["/a.bin"] = [
        ("status", 429, {"Retry_After": "7"}),
        ("status", 503, {"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        ("status", 503, {"Retry_After": "soon"}),
        ("status", 503, {"Retry_After": "999999"}),
    ]
    file = read_catalogue(catalogue_file(entry(url, noise))).parts[0].files[0]
    progress, stop = FileProgress("a.bin"), Recorder()
    with Connection(5.0) as connection:
        transfer = FileTransfer(
            file, tmp_path / "a.bin", connection=connection, retry_policy=RetryPolicy(), progress=progress, stop=stop
        )
        transfer.fetch()
    asked, past, jitter, most = stop.waits
    assert (asked, past, most) == (7, 0, 600)
    assert 2 <= jitter <= 4  # the third failure: a second, doubled twice


def test_a_server_that_never_recovers_is_given_up_in_one_sentence(server, fetch, noise):
    url = server.put("/a.bin", noise)
    server.always["/a.bin"] = ("status", 503, {})
    with pytest.raises(OSError, match=r"a\.bin: HTTP 503 Service Unavailable; given up after 3 attempts"):
        fetch(entry(url, noise), retries=2)
    assert len(server.asked("/a.bin")) == 3


def test_attempts_that_bring_much_do_not_count_as_failures(server, fetch):
    content = bytes(range(256)) * (6 * MIN_PROGRESS // 256)
    url = server.put("/a.bin", content)
    server.acts["/a.bin"] = [("break", MIN_PROGRESS + 10)] * 4
    assert (fetch(entry(url, content), retries=1) / "a.bin").read_bytes() == content


@pytest.mark.parametrize("status", [404, 403, 401])
def test_what_will_not_pass_is_not_tried_again(server, fetch, noise, status):
    url = server.put("/a.bin", noise)
    server.always["/a.bin"] = ("status", status, {})
    with pytest.raises(OSError, match=f"HTTP {status}"):
        fetch(entry(url, noise))
    assert len(server.asked("/a.bin")) == 1


def test_a_silent_server_is_left_after_the_timeout_and_asked_again(server, fetch, noise):
    url = server.put("/a.bin", noise)
    server.acts["/a.bin"] = [("hang",)]
    assert (fetch(entry(url, noise), timeout=1.0) / "a.bin").read_bytes() == noise


def test_nobody_at_the_address(fetch, noise):
    with pytest.raises(OSError, match=r"127\.0\.0\.1 cannot be reached"):
        fetch(entry("http://127.0.0.1:9/a.bin", noise), retries=1)


def test_wrong_bytes_once_are_forgiven_and_twice_deleted(server, fetch, noise):
    url, wrong = server.put("/a.bin", noise), noise[::-1]
    server.acts["/a.bin"] = [("wrong", wrong)]
    root = fetch(entry(url, noise))
    assert (root / "a.bin").read_bytes() == noise
    (root / "a.bin").unlink()
    server.always["/a.bin"] = ("wrong", wrong)
    with pytest.raises(
        ValueError, match=f"its sha256 is {sha256(wrong)} where the catalogue says {sha256(noise)}, twice"
    ):
        fetch(entry(url, noise))
    assert [path.name for path in root.iterdir()] == ["downloads"]


def test_md5_is_checked_too(server, fetch, noise):
    url = server.put("/a.bin", noise)
    right = {"url": url, "to": "a.bin", "md5": hashlib.md5(noise).hexdigest()}
    fetch(right)
    fetch(right)
    assert len(server.asked("/a.bin")) == 1
    with pytest.raises(ValueError, match="its md5 is"):
        fetch({**right, "md5": "0" * 32, "to": "b.bin"})


def test_another_size_is_refused_before_the_body(server, fetch, noise):
    url = server.put("/a.bin", noise)
    with pytest.raises(ValueError, match=r"a file of 300000 bytes where the catalogue says 5"):
        fetch(entry(url, noise, bytes=5))


def test_without_a_length_the_size_of_the_catalogue_counts(server, fetch, noise):
    url = server.put("/a.bin", noise)
    server.always["/a.bin"] = ("chunked",)
    assert (fetch(entry(url, noise)) / "a.bin").read_bytes() == noise
    with pytest.raises(ValueError, match="more than the 5 bytes"):
        fetch(entry(url, noise, bytes=5, to="b.bin"))


def test_an_empty_file_is_a_file(server, fetch):
    assert (fetch(entry(server.put("/a.bin", b""), b"")) / "a.bin").read_bytes() == b""


def test_redirects_are_followed_but_not_out_of_http(server, fetch, noise):
    server.put("/a.bin", noise)
    server.always["/old"] = ("redirect", "/a.bin")
    assert (fetch(entry(server.address + "/old", noise)) / "a.bin").read_bytes() == noise
    for target, words in (
        ("file:///etc/passwd", "not followed"),
        ("ftp://127.0.0.1/a", "not followed"),
        ("/x", "times"),
    ):
        server.always["/x"] = ("redirect", target)
        with pytest.raises(ValueError, match=words):
            fetch(entry(server.address + "/x", noise, to="x"))


def test_passwords_reach_only_their_server_and_no_message(server, fetch, noise, capsys):
    server.put("/a.bin", noise)
    url = server.address.replace("//", "//me:s3cret@") + "/a.bin?token=s3cret"
    server.files["/a.bin?token=s3cret"] = noise
    server.acts["/a.bin?token=s3cret"] = [("break", 10), ("redirect", "/moved"), ("redirect", "http://localhost:1/a")]
    server.always["/moved"] = ("status", 503, {})
    with pytest.raises(OSError, match=r"a\.bin: .*given up") as caught:
        fetch(entry(url, noise), retries=2)
    assert all(headers["Authorization"].startswith("Basic ") for _, _, headers in server.requests)
    root = fetch({**entry(url, noise), "to": "b.bin"})
    written = "".join(path.read_text(errors="replace") for path in (root / "downloads").iterdir())
    assert "s3cret" not in str(caught.value) + written + capsys.readouterr().err


def test_a_redirect_to_another_host_does_not_get_the_password(server, fetch, noise):
    server.put("/a.bin", noise)
    server.always["/mine"] = ("redirect", "/here")
    server.always["/here"] = ("redirect", server.address.replace("127.0.0.1", "localhost") + "/a.bin")
    fetch(entry(server.address.replace("//", "//me:s3cret@") + "/mine", noise))
    assert [path for _, path, headers in server.requests if "Authorization" in headers] == ["/mine", "/here"]
    assert server.asked("/a.bin")


def test_netrc_is_not_asked(server, fetch, noise, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fetch(entry(server.put("/a.bin", noise), noise))
    assert "Authorization" not in server.asked("/a.bin")[0]


def test_a_web_page_is_no_archive(server, fetch, packed):
    server.put("/a.zip", b"<html>log in first</html>")
    server.always["/a.zip"] = ("status", 200, {"Content_Type": "text/html"})
    with pytest.raises(ValueError, match="a web page came"):
        fetch({"url": server.address + "/a.zip", "unpack": "."})


def test_a_full_disk_is_one_sentence(server, fetch, noise, monkeypatch):
    class Full:  # a file on a disk without room
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, _):
            raise OSError(28, "No space left on device")

    original = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", **named: Full() if mode == "ab" else original(self, mode, **named)
    )
    with pytest.raises(OSError, match=r"a\.bin\.part: cannot be written \(No space left on device\)"):
        fetch(entry(server.put("/a.bin", noise), noise))


def test_what_lies_there_already_is_checked_and_taken_or_moved_aside(server, fetch, noise):
    url = server.put("/a.bin", noise)
    root = fetch(entry(url, noise))
    (root / "downloads" / "manifest.json").unlink()
    fetch(entry(url, noise))
    assert len(server.asked("/a.bin")) == 1
    (root / "a.bin").write_bytes(b"mine")
    fetch(entry(url, noise))
    assert (root / "a.bin").read_bytes() == noise
    assert (root / "a.bin.old").read_bytes() == b"mine"


def test_several_failures_do_not_keep_the_others(server, fetch, noise):
    good = entry(server.put("/a.bin", noise), noise)
    gone = [{"url": f"{server.address}/{name}", "to": name} for name in ("b", "c")]
    with pytest.raises(OSError, match=r"2 files failed: .*404"):
        fetch(gone[0], good, gone[1], jobs=1)


def test_a_mirror_takes_the_place_of_the_host(server, fetch, noise):
    server.put("/mirror/deep/a.bin", noise)
    root = fetch(entry("https://example.org/deep/a.bin", noise), mirror=server.address + "/mirror")
    assert (root / "a.bin").read_bytes() == noise
    with pytest.raises(ValueError, match="--mirror"):
        fetch(entry("https://example.org/deep/b.bin", noise, to="b"), mirror="example.org")
