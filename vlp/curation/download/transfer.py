"""Fetches one file: goes on where it stopped, tries again what may pass, and trusts only what it has checked."""

from __future__ import annotations

import hashlib
import random
import re
import threading
from pathlib import Path

import requests

from vlp.curation.download.catalogue import ARCHIVES, RemoteFile, public
from vlp.curation.download.connection import Connection, Patience, TryAgain, body, content_length
from vlp.curation.download.download_progress import Tally
from vlp.curation.download.partial_file import Origin, Partial
from vlp.system.errors import UserError

PROGRESS = 1 << 20  # bytes that an attempt must bring for the count of failures to begin anew


class Stopped(Exception):
    """The user, or a failure elsewhere, ends the work; what is there stays."""


class Transfer:
    def __init__(
        self, file: RemoteFile, target: Path, *, connection: Connection, patience: Patience, tally: Tally,
        stop: threading.Event,
    ) -> None:  # fmt: skip
        self.file, self.target, self.partial = file, target, Partial(target)
        self.connection, self.patience, self.tally, self.stop = connection, patience, tally, stop
        self.name = public(file.url)

    def run(self) -> str:
        """The sha256 of the complete file, which is in its place then."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        for last_chance in (False, True):
            self._persist()
            self.tally.stage = "checking"
            found = checksums(self.partial.path, self.file, stop=self.stop)
            if wrong := mismatch(self.file, found):
                self.partial.drop()
                if last_chance:
                    raise UserError(
                        f"{self.name}: {wrong}, twice; it was deleted. The source or a proxy on the way gives something "
                        "else than the catalogue knows: look at it in a browser, or correct a catalogue of your own"
                    )
                self.tally.note = f"{wrong}; once more"
                continue
            self.partial.finish()
            return found["sha256"]
        raise AssertionError

    def _persist(self) -> None:
        failures = 0
        while True:
            before = self.tally.received
            try:
                self._attempt()
                return
            except TryAgain as error:
                failures = 1 if self.tally.received - before >= PROGRESS else failures + 1
                limit = self.patience.retries if error.retries is None else min(error.retries, self.patience.retries)
                if failures > limit:
                    raise OSError(
                        f"{self.name}: {error}; given up after {failures} attempts without progress. The same command "
                        "goes on from here"
                    ) from error
                self.tally.note = f"{error}; attempt {failures + 1} follows"
                delay = min(self.patience.first_delay * 2 ** (failures - 1), self.patience.longest_delay)
                # jitter keeps many machines from asking a server that comes back all at once
                delay = error.wait if error.wait is not None else delay * random.uniform(0.5, 1)
                if self.stop.wait(delay):
                    raise Stopped from error

    def _attempt(self) -> None:
        origin = self.partial.origin(self.name)
        checked = self.file.sha256 or self.file.md5
        if origin and origin.validator is None and not checked:
            origin = None  # nothing would show that the rest belongs to another version
        offset = self.partial.size if origin else 0
        self.tally.done = offset
        if origin and origin.total == offset:
            return
        headers = {"Range": f"bytes={offset}-"} if origin else {}
        if origin and origin.validator:
            headers["If-Range"] = origin.validator
        self.tally.stage = "downloading"
        with self.connection.open(self.file.url, headers=headers) as response:
            self._receive(response, origin, offset)

    def _receive(self, response: requests.Response, origin: Origin | None, offset: int) -> None:
        total = content_length(response)
        if response.status_code == 206:
            begins, total = content_range(response)
        new = Origin(
            url=self.name,
            etag=response.headers.get("ETag"),
            modified=response.headers.get("Last-Modified"),
            total=total,
        )
        if response.status_code == 416 or (
            response.status_code == 206 and (origin is None or begins != offset or not origin.same(new))
        ):
            self.partial.drop()
            raise TryAgain("the remote file has changed; it is fetched from its beginning")
        self._expect(response, total)
        if response.status_code == 200:  # the first time, after a change, or from a server that ignores Range
            if origin:
                self.tally.note = "the server has another file now, or cannot continue one; from the beginning"
            self.partial.begin(new)
            self.tally.done = 0
        self.tally.total = total or self.tally.total
        self._write(response)
        if total is not None and self.partial.size < total:
            raise TryAgain(f"the connection ended after {self.partial.size} of {total} bytes")
        if self.file.bytes is not None and self.partial.size < self.file.bytes:  # the server had not said its size
            raise TryAgain(f"the connection ended after {self.partial.size} of {self.file.bytes} bytes")

    def _expect(self, response: requests.Response, total: int | None) -> None:
        """Refuses at once what cannot be the file, instead of after gigabytes."""
        kind = response.headers.get("Content-Type", "")
        if kind.startswith("text/html") and self.file.path.endswith(ARCHIVES):
            raise UserError(f"{self.name}: a web page came instead of the archive; look at it in a browser")
        if self.file.bytes is not None and total is not None and total != self.file.bytes:
            raise UserError(
                f"{self.name}: the server has a file of {total} bytes where the catalogue says {self.file.bytes}; "
                "the source has changed, or a proxy on the way gives something else"
            )

    def _write(self, response: requests.Response) -> None:
        limit = self.file.bytes
        with self.partial.path.open("ab", buffering=0) as out:
            for chunk in body(response):
                if limit is not None and self.tally.done + len(chunk) > limit:
                    raise UserError(f"{self.name}: more than the {limit} bytes that the catalogue says")
                try:
                    out.write(chunk)
                except OSError as error:
                    raise OSError(f"{self.partial.path}: cannot be written ({error.strerror})") from error
                self.tally.done += len(chunk)
                self.tally.received += len(chunk)
                if self.stop.is_set():
                    raise Stopped


def content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """The first byte that a 206 brings and the whole file's size; None where it does not say."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not found:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def checksums(path: Path, file: RemoteFile, *, stop: threading.Event | None = None) -> dict[str, str]:
    """sha256 always; md5 where the catalogue has one."""
    digests = {"sha256": hashlib.sha256()}
    if file.md5:
        digests["md5"] = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            for digest in digests.values():
                digest.update(chunk)
            if stop is not None and stop.is_set():
                raise Stopped
    return {name: digest.hexdigest() for name, digest in digests.items()}


def mismatch(file: RemoteFile, found: dict[str, str]) -> str | None:
    """What is wrong with it, in words."""
    for name, value in (("sha256", file.sha256), ("md5", file.md5)):
        if value and found[name] != value:
            return f"its {name} is {found[name]} where the catalogue says {value}"
    return None
