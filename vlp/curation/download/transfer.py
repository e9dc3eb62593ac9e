"""Downloads one file: resumes it after an interruption, retries transient failures, and checks the result."""

from __future__ import annotations

import hashlib
import random
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import requests

from vlp.curation.download.catalogue import ARCHIVE_SUFFIXES, RemoteFile, redact_url
from vlp.curation.download.connection import Connection, RetryPolicy, TransientError, content_length, iterate_body
from vlp.curation.download.download_progress import FileProgress
from vlp.curation.download.partial_file import PartialFile, RemoteVersion
from vlp.system.errors import UserError

MIN_PROGRESS = 1 << 20  # bytes that an attempt must bring for the count of failures to start again


class DownloadStopped(Exception):
    """The download is stopped by the user or by a failure elsewhere; incomplete files stay."""


@dataclass
class FileTransfer:
    file: RemoteFile
    target: Path
    connection: Connection
    retry_policy: RetryPolicy
    progress: FileProgress
    stop: threading.Event

    def __post_init__(self) -> None:
        self.partial, self.name = PartialFile(self.target), redact_url(self.file.url)

    def fetch(self) -> str:
        """The sha256 of the complete file, which is then at its target.

        Raises UserError for a wrong file, OSError after too many failures, DownloadStopped.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._download_with_retries()
        if error := self._checksum_error():
            self.progress.message = f"{error}; downloading it again"
            self._download_with_retries()
            if error := self._checksum_error():
                raise UserError(
                    f"{self.name}: {error}, twice; it was deleted. The source has changed, or a proxy sends something "
                    "else: open the address in a browser, or correct the entry if the catalogue is your own"
                )
        self.partial.move_to_target()
        return self.checksums["sha256"]

    def _checksum_error(self) -> str | None:
        """Sets `checksums`; deletes a file that does not have those of the catalogue."""
        self.progress.stage = "checking"
        self.checksums = file_checksums(self.partial.path, self.file, stop=self.stop)
        error = checksum_mismatch(self.file, self.checksums)
        if error:
            self.partial.delete()
        return error

    def _download_with_retries(self) -> None:
        failures = 0
        while True:
            received = self.progress.received
            try:
                return self._download_rest()
            except TransientError as error:
                failures = 1 if self.progress.received - received >= MIN_PROGRESS else failures + 1
                policy = self.retry_policy
                limit = policy.retries if error.max_retries is None else min(error.max_retries, policy.retries)
                if failures > limit:
                    raise OSError(
                        f"{self.name}: {error}; given up after {failures} attempts without progress. Run the same "
                        "command again to continue"
                    ) from error
                self.progress.message = f"{error}; attempt {failures + 1} follows"
                # random, so that many machines do not ask a server all at once when it is available again
                delay = min(policy.first_delay * 2 ** (failures - 1), policy.max_delay) * random.uniform(0.5, 1)
                if self.stop.wait(delay if error.retry_after is None else error.retry_after):
                    raise DownloadStopped from error

    def _download_rest(self) -> None:
        """One attempt to download what the partial file lacks."""
        version = self.partial.resumable_version(self.name)
        has_checksum = self.file.sha256 or self.file.md5
        if version and version.validator is None and not has_checksum:
            version = None  # nothing would show that the rest belongs to another version
        offset = self.partial.size if version else 0
        self.progress.done = offset
        if version and version.total == offset:
            return
        headers = {"Range": f"bytes={offset}-"} if version else {}
        if version and version.validator:
            headers["If-Range"] = version.validator
        self.progress.stage = "downloading"
        with self.connection.open(self.file.url, headers=headers) as response:
            self._save_response(response, version, offset)

    def _save_response(self, response: requests.Response, version: RemoteVersion | None, offset: int) -> None:
        first_byte, total = None, content_length(response)
        if response.status_code == 206:
            first_byte, total = parse_content_range(response)
        new = RemoteVersion(
            url=self.name,
            etag=response.headers.get("ETag"),
            modified=response.headers.get("Last-Modified"),
            total=total,
        )
        if response.status_code == 416 or (
            response.status_code == 206 and (version is None or first_byte != offset or not version.matches(new))
        ):
            self.partial.delete()
            raise TransientError("the remote file has changed; it is downloaded from its beginning")
        self._check_headers(response, total)
        if response.status_code == 200:  # the first time, after a change, or from a server that ignores Range
            if version:
                self.progress.message = (
                    "the server's file has changed, or cannot be continued; downloading it from the beginning"
                )
            self.partial.start(new)
            self.progress.done = 0
        self.progress.total = total or self.progress.total
        self._append_body(response)
        for expected in (total, self.file.bytes):  # the server may not have sent a size
            if expected is not None and self.partial.size < expected:
                raise TransientError(f"the connection ended after {self.partial.size} of {expected} bytes")

    def _check_headers(self, response: requests.Response, total: int | None) -> None:
        """Refuses a response that cannot be the file before its body is downloaded."""
        content_type = response.headers.get("Content-Type", "")
        if content_type.startswith("text/html") and self.file.path.endswith(ARCHIVE_SUFFIXES):
            raise UserError(f"{self.name}: a web page came instead of the archive; open it in a browser")
        if self.file.bytes is not None and total is not None and total != self.file.bytes:
            raise UserError(
                f"{self.name}: the server has a file of {total} bytes where the catalogue says {self.file.bytes}; "
                "the source has changed, or a proxy sends something else"
            )

    def _append_body(self, response: requests.Response) -> None:
        limit = self.file.bytes
        with self.partial.path.open("ab", buffering=0) as out:
            for chunk in iterate_body(response):
                if limit is not None and self.progress.done + len(chunk) > limit:
                    raise UserError(f"{self.name}: more than the {limit} bytes that the catalogue says")
                try:
                    out.write(chunk)
                except OSError as error:
                    raise OSError(f"{self.partial.path}: cannot be written ({error.strerror})") from error
                self.progress.done += len(chunk)
                self.progress.received += len(chunk)
                if self.stop.is_set():
                    raise DownloadStopped


def parse_content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """The first byte of a 206 response and the size of the complete file; None where the server does not send it."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not match:
        return None, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def file_checksums(path: Path, file: RemoteFile, *, stop: threading.Event) -> dict[str, str]:
    """sha256 always; md5 where the catalogue has one.  Raises DownloadStopped."""
    digests = {"sha256": hashlib.sha256()}
    if file.md5:
        digests["md5"] = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            for digest in digests.values():
                digest.update(chunk)
            if stop.is_set():
                raise DownloadStopped
    return {name: digest.hexdigest() for name, digest in digests.items()}


def checksum_mismatch(file: RemoteFile, checksums: dict[str, str]) -> str | None:
    """The difference to the catalogue, in words."""
    for name, expected in (("sha256", file.sha256), ("md5", file.md5)):
        if expected and checksums[name] != expected:
            return f"its {name} is {checksums[name]} where the catalogue says {expected}"
    return None
